//! BTF: the types that every distribution kernel carries in its own memory.
//!
//! Layout: `include/uapi/linux/btf.h` (Linux 7.2) and `Documentation/bpf/btf.rst`.
//!
//! *Trusts*: nothing; the blob may come from a hostile guest. The whole of it is validated, every offset is checked,
//! counts are limited by the blob's own size. *Never*: recurses, or allocates more than the blob can justify.

use crate::types::{Type, TypeId, Types, TypesBuilder};

/// The header's first two bytes.
pub const MAGIC: [u8; 2] = [0x9f, 0xeb];
/// Bytes of header that [`blob_len`] needs.
pub const HEADER_BYTES: usize = 24;
/// Largest blob read: ten times that of the biggest distribution kernel.
pub const MAX_BLOB_BYTES: usize = 64 << 20;

/// Why a blob is not BTF that we can use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BtfError {
    /// No magic number, or another version.
    #[error("not a BTF blob (magic, version or header length is wrong)")]
    NotBtf,
    /// Longer than [`MAX_BLOB_BYTES`].
    #[error("the BTF blob says it has {0} bytes; the limit is {MAX_BLOB_BYTES}")]
    TooLong(u64),
    /// The blob ends inside a section.
    #[error("the BTF blob is cut short: {have} of {need} bytes")]
    Truncated {
        /// Bytes given.
        have: usize,
        /// Bytes that the header asks for.
        need: usize,
    },
    /// A type record does not make sense.
    #[error("BTF type {id} at offset {offset:#x}: {why}")]
    BadType {
        /// Its number.
        id: u32,
        /// Offset in the type section.
        offset: usize,
        /// What is wrong.
        why: &'static str,
    },
}

struct Header {
    types: std::ops::Range<usize>,
    strings: std::ops::Range<usize>,
}

/// Length in bytes of the whole blob that begins with `header` (at least [`HEADER_BYTES`] bytes).
pub fn blob_len(header: &[u8]) -> Result<usize, BtfError> {
    let header = parse_header(header)?;
    Ok(header.types.end.max(header.strings.end))
}

/// Parses a blob of a kernel (not of a module, whose types continue its kernel's). Bytes after it are ignored.
pub fn parse(blob: &[u8]) -> Result<Types, BtfError> {
    let header = parse_header(blob)?;
    let need = header.types.end.max(header.strings.end);
    let short = BtfError::Truncated { have: blob.len(), need };
    let types = blob.get(header.types).ok_or(short.clone())?;
    let strings = blob.get(header.strings).ok_or(short)?;
    let mut parser = Parser { types, at: 0, id: 0, strings, out: TypesBuilder::default() };
    parser.out.push(Type::Opaque);
    while parser.at < types.len() {
        parser.one()?;
    }
    if let Some(id) = parser.out.dangling() {
        return Err(BtfError::BadType { id: id.0, offset: 0, why: "is referred to and does not exist" });
    }
    Ok(parser.out.build())
}

fn parse_header(bytes: &[u8]) -> Result<Header, BtfError> {
    let word = |at: usize| le32(bytes, at).ok_or(BtfError::NotBtf);
    if bytes.get(..2) != Some(&MAGIC) || bytes.get(2) != Some(&1) {
        return Err(BtfError::NotBtf);
    }
    let header_bytes = word(4)?;
    if !(24..=4096).contains(&header_bytes) || word(8)? % 4 != 0 {
        return Err(BtfError::NotBtf);
    }
    let section = |offset: u32, len: u32| {
        let start = u64::from(header_bytes).saturating_add(offset.into());
        let end = start.saturating_add(len.into());
        if end > MAX_BLOB_BYTES as u64 {
            Err(BtfError::TooLong(end))
        } else {
            Ok(start as usize..end as usize)
        }
    };
    Ok(Header { types: section(word(8)?, word(12)?)?, strings: section(word(16)?, word(20)?)? })
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    let part = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(part.try_into().ok()?))
}

struct Parser<'a> {
    types: &'a [u8],
    at: usize,
    id: u32,
    strings: &'a [u8],
    out: TypesBuilder,
}

impl<'a> Parser<'a> {
    /// One type record: `struct btf_type` and what follows it.
    fn one(&mut self) -> Result<(), BtfError> {
        self.id = self.id.saturating_add(1);
        let start = self.at;
        let (name, info, size_or_type) = (self.word()?, self.word()?, self.word()?);
        let (vlen, kind, flag) = (info & 0xffff, info >> 24 & 0x1f, info >> 31 == 1);
        match kind {
            1 => self.integer(size_or_type)?,
            2 => self.plain(Type::Pointer { target: TypeId(size_or_type) }),
            3 => self.array()?,
            4 | 5 => self.composite(name, size_or_type, info)?,
            6 => self.enumeration(size_or_type, vlen, flag)?,
            7 | 12 => self.plain(Type::Opaque),
            8..=11 | 18 => self.plain(Type::Alias(TypeId(size_or_type))),
            13 => self.skip_and(vlen.saturating_mul(8), Type::Opaque)?,
            14 | 17 => self.skip_and(4, Type::Opaque)?,
            15 => self.skip_and(vlen.saturating_mul(12), Type::Opaque)?,
            16 => self.plain(Type::Integer { bytes: size_or_type, signed: true, bits: None }),
            19 => self.enumeration64(size_or_type, vlen)?,
            _ => return Err(BtfError::BadType { id: self.id, offset: start, why: "unknown kind" }),
        }
        Ok(())
    }

    fn plain(&mut self, ty: Type) {
        self.out.push(ty);
    }

    fn skip_and(&mut self, bytes: u32, ty: Type) -> Result<(), BtfError> {
        let end = self.at.saturating_add(bytes as usize);
        if end > self.types.len() {
            return Err(self.bad("runs past the end of the type section"));
        }
        self.at = end;
        self.plain(ty);
        Ok(())
    }

    fn integer(&mut self, bytes: u32) -> Result<(), BtfError> {
        let data = self.word()?;
        if bytes > 16 {
            return Err(self.bad("an integer of more than 16 bytes"));
        }
        let (first, width) = ((data >> 16 & 0xff) as u8, (data & 0xff) as u8);
        let signed = data >> 24 & 1 == 1;
        self.plain(Type::Integer { bytes, signed, bits: Some((first, width)) });
        Ok(())
    }

    fn array(&mut self) -> Result<(), BtfError> {
        let (element, _index, count) = (self.word()?, self.word()?, self.word()?);
        self.plain(Type::Array { element: TypeId(element), count });
        Ok(())
    }

    fn composite(&mut self, name: u32, bytes: u32, info: u32) -> Result<(), BtfError> {
        let (vlen, bit_fields, is_union) = (info & 0xffff, info >> 31 == 1, info >> 24 & 0x1f == 5);
        let name = self.string(name)?;
        let record = self.out.record(name, bytes, is_union);
        for _ in 0..vlen {
            let (name, ty, offset) = (self.word()?, self.word()?, self.word()?);
            let (bit_offset, bit_size) =
                if bit_fields { (offset & 0x00ff_ffff, (offset >> 24) as u8) } else { (offset, 0) };
            if bit_offset / 8 > bytes {
                return Err(self.bad("a member lies outside its structure"));
            }
            let name = self.string(name)?;
            self.out.member(name, TypeId(ty), bit_offset, bit_size);
        }
        self.plain(Type::Composite { record });
        Ok(())
    }

    fn enumeration(&mut self, bytes: u32, vlen: u32, signed: bool) -> Result<(), BtfError> {
        for _ in 0..vlen {
            let (name, value) = (self.word()?, self.word()?);
            let name = self.string(name)?;
            // Before Linux 6.0 nothing said whether an enumeration is signed: its values were taken as such.
            self.out.enumerator(name, i64::from(value.cast_signed()));
        }
        self.plain(Type::Integer { bytes, signed, bits: None });
        Ok(())
    }

    fn enumeration64(&mut self, bytes: u32, vlen: u32) -> Result<(), BtfError> {
        for _ in 0..vlen {
            let (name, low, high) = (self.word()?, self.word()?, self.word()?);
            let name = self.string(name)?;
            self.out.enumerator(name, (u64::from(high) << 32 | u64::from(low)).cast_signed());
        }
        self.plain(Type::Integer { bytes, signed: false, bits: None });
        Ok(())
    }

    fn word(&mut self) -> Result<u32, BtfError> {
        let value =
            le32(self.types, self.at).ok_or_else(|| self.bad("runs past the end of the type section"))?;
        self.at = self.at.saturating_add(4);
        Ok(value)
    }

    fn string(&self, offset: u32) -> Result<&'a str, BtfError> {
        let rest =
            self.strings.get(offset as usize..).ok_or_else(|| self.bad("a name outside the strings"))?;
        let end = memchr::memchr(0, rest).ok_or_else(|| self.bad("a name without an end"))?;
        let name = rest.get(..end).unwrap_or(&[]);
        if name.len() > 512 {
            return Err(self.bad("a name of more than 512 bytes"));
        }
        std::str::from_utf8(name).map_err(|_| self.bad("a name that is not text"))
    }

    fn bad(&self, why: &'static str) -> BtfError {
        BtfError::BadType { id: self.id, offset: self.at, why }
    }
}
