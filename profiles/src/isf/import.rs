//! Reading ISF.

use super::{IsfError, MAX_FILE_BYTES};
use crate::{BuildId, Identity, Profile, SymbolsBuilder, Type, TypeId, TypesBuilder};
use base64::Engine;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;

/// Most types that a file may describe.
const MAX_TYPES: usize = 8 << 20;
const MAX_DEPTH: usize = 16;

#[derive(Deserialize)]
struct Isf {
    metadata: Metadata,
    base_types: HashMap<String, BaseType>,
    user_types: BTreeMap<String, UserType>,
    #[serde(default)]
    enums: HashMap<String, Enumeration>,
    symbols: BTreeMap<String, Symbol>,
}

#[derive(Deserialize)]
struct Metadata {
    format: String,
    linux: Option<Sources>,
}

#[derive(Deserialize)]
struct Sources {
    #[serde(default)]
    symbols: Vec<Source>,
}

#[derive(Deserialize)]
struct Source {
    name: Option<String>,
}

#[derive(Deserialize)]
struct BaseType {
    size: u32,
    signed: bool,
}

#[derive(Deserialize)]
struct UserType {
    kind: String,
    size: u32,
    fields: BTreeMap<String, Member>,
}

#[derive(Deserialize)]
struct Member {
    offset: u32,
    #[serde(rename = "type")]
    ty: Descriptor,
    #[serde(default)]
    anonymous: bool,
}

#[derive(Deserialize)]
struct Descriptor {
    kind: String,
    name: Option<String>,
    subtype: Option<Box<Descriptor>>,
    count: Option<u32>,
    bit_position: Option<u32>,
    bit_length: Option<u8>,
    #[serde(rename = "type")]
    ty: Option<Box<Descriptor>>,
}

#[derive(Deserialize)]
struct Enumeration {
    #[serde(default)]
    size: u32,
    #[serde(default)]
    constants: BTreeMap<String, i64>,
}

#[derive(Deserialize)]
struct Symbol {
    address: u64,
    #[serde(rename = "type")]
    ty: Option<Descriptor>,
    constant_data: Option<String>,
}

/// Reads a profile from ISF JSON, as it is or packed with xz.
pub fn read(file: &[u8]) -> Result<Profile, IsfError> {
    if file.starts_with(&[0xfd, 0x37, 0x7a, 0x58, 0x5a]) {
        let mut json = Vec::new();
        let mut unpacked = lzma_rust2::XzReader::new(file, true).take(MAX_FILE_BYTES.saturating_add(1));
        unpacked.read_to_end(&mut json).map_err(|error| IsfError::Unpack(error.to_string()))?;
        return parse(&json);
    }
    parse(file)
}

fn parse(json: &[u8]) -> Result<Profile, IsfError> {
    if json.len() as u64 > MAX_FILE_BYTES {
        return Err(IsfError::TooLarge);
    }
    let isf: Isf = serde_json::from_slice(json)?;
    if !isf.metadata.format.starts_with("6.") {
        return Err(IsfError::Version(isf.metadata.format));
    }
    let identity = identity(&isf)?;
    let mut symbols = SymbolsBuilder::default();
    for (name, symbol) in &isf.symbols {
        let is_function = symbol.ty.as_ref().is_some_and(|ty| ty.kind == "function");
        symbols.push(name, symbol.address, if is_function { b't' } else { b'd' });
    }
    let types = Reader::new(&isf).types()?;
    Ok(Profile { identity, symbols: symbols.build(), types })
}

fn identity(isf: &Isf) -> Result<Identity, IsfError> {
    let data = isf.symbols.get("linux_banner").and_then(|symbol| symbol.constant_data.as_ref());
    let bytes = data.and_then(|data| base64::engine::general_purpose::STANDARD.decode(data).ok());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(IsfError::NoBanner)?;
    let sources = isf.metadata.linux.iter().flat_map(|linux| &linux.symbols);
    let build_id =
        sources.filter_map(|source| build_id(source.name.as_deref()?.rsplit_once("build-id ")?.1)).next();
    Identity::from_banner(text.trim_end_matches(['\n', '\0']), build_id).ok_or(IsfError::NoBanner)
}

fn build_id(text: &str) -> Option<BuildId> {
    let mut id = [0; 20];
    if text.len() != 40 {
        return None;
    }
    for (index, byte) in id.iter_mut().enumerate() {
        let at = index.saturating_mul(2);
        *byte = u8::from_str_radix(text.get(at..at.saturating_add(2))?, 16).ok()?;
    }
    Some(BuildId(id))
}

/// Turns names into numbers.
struct Reader<'a> {
    isf: &'a Isf,
    out: TypesBuilder,
    /// Number of the type of each structure, in the order of `user_types`.
    records: HashMap<&'a str, TypeId>,
    integers: HashMap<(u32, bool), TypeId>,
    void: TypeId,
    made: usize,
}

impl<'a> Reader<'a> {
    fn new(isf: &'a Isf) -> Self {
        let mut out = TypesBuilder::default();
        let void = out.push(Type::Opaque);
        let mut reader = Reader {
            isf,
            out,
            records: HashMap::new(),
            integers: HashMap::new(),
            void,
            made: isf.user_types.len(),
        };
        for (record, name) in (0u32..).zip(isf.user_types.keys()) {
            let id = reader.out.push(Type::Composite { record });
            reader.records.insert(name, id);
        }
        reader
    }

    fn types(mut self) -> Result<crate::Types, IsfError> {
        for (name, ty) in &self.isf.user_types {
            let known = if name.starts_with("unnamed_") { "" } else { name };
            self.out.record(known, ty.size, ty.kind == "union");
            for (member, field) in &ty.fields {
                let failed = |why| IsfError::Type { ty: format!("{name}.{member}"), why };
                let (id, first, width) = self.member(&field.ty).map_err(failed)?;
                let bits = field.offset.checked_mul(8).and_then(|bits| bits.checked_add(first));
                let bits = bits.ok_or_else(|| failed("its offset is absurd"))?;
                self.out.member(if field.anonymous { "" } else { member }, id, bits, width);
            }
        }
        for (name, value) in self.isf.enums.values().flat_map(|enumeration| &enumeration.constants) {
            self.out.enumerator(name, *value);
        }
        Ok(self.out.build())
    }

    /// Type, first bit and width of a member; width 0 for one that is no bit field.
    fn member(&mut self, ty: &Descriptor) -> Result<(TypeId, u32, u8), &'static str> {
        if ty.kind != "bitfield" {
            return Ok((self.ty(ty, 0)?, 0, 0));
        }
        let inner = ty.ty.as_deref().ok_or("a bit field without a type")?;
        let (first, width) = (ty.bit_position.unwrap_or(0), ty.bit_length.unwrap_or(0));
        if first >= 64 || width > 64 {
            return Err("a bit field wider than its type");
        }
        Ok((self.ty(inner, 0)?, first, width))
    }

    fn ty(&mut self, ty: &Descriptor, depth: usize) -> Result<TypeId, &'static str> {
        if depth >= MAX_DEPTH {
            return Err("types nested too deeply");
        }
        self.made = self.made.saturating_add(1);
        if self.made > MAX_TYPES {
            return Err("too many types");
        }
        let below = depth.saturating_add(1);
        let name = ty.name.as_deref().unwrap_or_default();
        match ty.kind.as_str() {
            "pointer" => {
                let target = match &ty.subtype {
                    Some(subtype) => self.ty(subtype, below)?,
                    None => self.void,
                };
                Ok(self.out.push(Type::Pointer { target }))
            }
            "array" => {
                let element = self.ty(ty.subtype.as_deref().ok_or("an array of nothing")?, below)?;
                Ok(self.out.push(Type::Array { element, count: ty.count.unwrap_or(0) }))
            }
            "base" => match self.isf.base_types.get(name) {
                Some(base) if base.size == 0 => Ok(self.void),
                Some(base) => Ok(self.integer(base.size, base.signed)),
                None => Err("a base type that is not described"),
            },
            "enum" => {
                let size = self.isf.enums.get(name).map_or(4, |enumeration| enumeration.size.max(1));
                Ok(self.integer(size, false))
            }
            // A structure that is only declared has no size: a pointer to it is all there can be.
            "struct" | "union" | "class" => Ok(self.records.get(name).copied().unwrap_or(self.void)),
            "function" => Ok(self.void),
            _ => Err("a kind of type that is not known"),
        }
    }

    fn integer(&mut self, bytes: u32, signed: bool) -> TypeId {
        let bytes = bytes.min(16);
        let out = &mut self.out;
        *self
            .integers
            .entry((bytes, signed))
            .or_insert_with(|| out.push(Type::Integer { bytes, signed, bits: None }))
    }
}
