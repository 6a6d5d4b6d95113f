//! The file format of a stored profile: a small header, then flat little-endian arrays.
//!
//! ```text
//! 0   8  "LYNCPROF"          20  4  CRC-32 of the header
//! 8   4  version             24  4  CRC-32 of the body
//! 12  4  header bytes        28     header, then body
//! 16  4  body bytes
//! ```
//!
//! *Trusts*: nothing; lengths are limited before anything is allocated, and both parts carry a checksum against
//! accidents. Lookups in a loaded profile are bounds-checked, so a forged file gives wrong answers but no panic.

use super::{Header, Origin, SourceDigest, SourceRange, StoreError};
use crate::shared::{Shared, Table, join};
use crate::types::{Member, Record, Span};
use crate::{BuildId, Identity, Profile, Symbols, Type, TypeId, Types};
use std::io::Read;

const MAGIC: &[u8; 8] = b"LYNCPROF";
/// Changes with every change of the layout; older files are ignored and made anew.
pub(super) const VERSION: u32 = 1;
/// Bytes before the header.
pub(super) const PREFIX_BYTES: usize = 28;
/// Largest header.
pub(super) const MAX_HEADER_BYTES: usize = 16 << 10;
/// Largest body: ten times that of the biggest distribution kernel.
const MAX_BODY_BYTES: usize = 128 << 20;
/// A fuzzer would never get past a checksum.
const CHECKSUMS_OFF: bool = cfg!(fuzzing);
/// Bytes of a table read at a time.
const CHUNK_BYTES: usize = 64 << 10;
const CUT_SHORT: StoreError = StoreError::Damaged("cut short");
/// Most source ranges of one profile.
const MAX_RANGES: usize = 64;

/// The fixed first part of a file.
pub(super) struct Prefix {
    pub(super) header_bytes: usize,
    pub(super) body_bytes: usize,
    header_crc: u32,
    body_crc: u32,
}

impl Prefix {
    /// Reads and limits the prefix.
    pub(super) fn parse(bytes: &[u8]) -> Result<Prefix, StoreError> {
        let mut input = Input(bytes);
        if input.take(8)? != MAGIC {
            return Err(StoreError::NotAProfile);
        }
        match input.u32()? {
            VERSION => {}
            other => return Err(StoreError::Version(other)),
        }
        let (header_bytes, body_bytes) = (input.u32()? as usize, input.u32()? as usize);
        if header_bytes > MAX_HEADER_BYTES || body_bytes > MAX_BODY_BYTES {
            return Err(StoreError::Damaged("longer than the limit"));
        }
        Ok(Prefix { header_bytes, body_bytes, header_crc: input.u32()?, body_crc: input.u32()? })
    }
}

/// The whole file for a profile.
pub(super) fn encode(header: &Header, profile: &Profile) -> Result<Vec<u8>, StoreError> {
    let head = encode_header(header);
    let body = encode_body(profile);
    if head.len() > MAX_HEADER_BYTES || body.len() > MAX_BODY_BYTES || header.ranges.len() > MAX_RANGES {
        return Err(StoreError::TooLarge);
    }
    let mut file = Vec::with_capacity(PREFIX_BYTES.saturating_add(head.len()).saturating_add(body.len()));
    file.extend(MAGIC);
    for word in
        [VERSION, head.len() as u32, body.len() as u32, crc32fast::hash(&head), crc32fast::hash(&body)]
    {
        file.extend(word.to_le_bytes());
    }
    file.extend(head);
    file.extend(body);
    Ok(file)
}

fn encode_header(header: &Header) -> Vec<u8> {
    let mut out = vec![match header.origin {
        Origin::Trusted => 1,
        Origin::Learned => 2,
    }];
    out.push(header.identity.build_id.is_some().into());
    out.extend(header.identity.build_id.map_or([0; 20], |id| id.0));
    for place in [header.banner_offset, header.build_id_offset] {
        out.extend(place.unwrap_or(i64::MIN).to_le_bytes());
    }
    out.extend(header.digest.0);
    out.extend((header.ranges.len() as u32).to_le_bytes());
    for range in &header.ranges {
        out.extend(range.offset_from_text.to_le_bytes());
        out.extend(range.len_bytes.to_le_bytes());
    }
    for text in [&header.identity.banner, &header.identity.release] {
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }
    out
}

/// Decodes the header from the file's beginning (prefix and header).
pub(super) fn decode_header(file: &[u8]) -> Result<Header, StoreError> {
    let prefix = Prefix::parse(file)?;
    let mut input = Input(file);
    input.take(PREFIX_BYTES)?;
    let bytes = input.take(prefix.header_bytes)?;
    if !CHECKSUMS_OFF && crc32fast::hash(bytes) != prefix.header_crc {
        return Err(StoreError::Damaged("the header's checksum is wrong"));
    }
    let mut input = Input(bytes);
    let origin = match input.u8()? {
        1 => Origin::Trusted,
        2 => Origin::Learned,
        _ => return Err(StoreError::Damaged("neither trusted nor learned")),
    };
    let has_build_id = input.u8()? == 1;
    let build_id = BuildId(input.array()?);
    let mut place =
        || input.array().map(|bytes| Some(i64::from_le_bytes(bytes)).filter(|at| *at != i64::MIN));
    let (banner_offset, build_id_offset) = (place()?, place()?);
    let digest = SourceDigest(input.array()?);
    let count = input.u32()? as usize;
    if count > MAX_RANGES {
        return Err(StoreError::Damaged("too many source ranges"));
    }
    let ranges = (0..count).map(|_| input.range()).collect::<Result<_, _>>()?;
    let (banner, release) = (input.text()?, input.text()?);
    let identity = Identity { build_id: has_build_id.then_some(build_id), banner, release };
    Ok(Header { origin, identity, banner_offset, build_id_offset, digest, ranges })
}

/// Decodes a whole file, piece by piece: with all of it in memory beside what it becomes, most of the time of a load would be
/// the kernel's, making room.
pub(super) fn decode(file: &mut dyn Read) -> Result<(Header, Profile), StoreError> {
    let mut start = vec![0; PREFIX_BYTES];
    read_exact(file, &mut start)?;
    let prefix = Prefix::parse(&start)?;
    start.resize(PREFIX_BYTES.saturating_add(prefix.header_bytes), 0);
    read_exact(file, start.get_mut(PREFIX_BYTES..).unwrap_or_default())?;
    let header = decode_header(&start)?;
    let mut body = Body { file, left: prefix.body_bytes, crc: crc32fast::Hasher::new(), chunk: Vec::new() };
    let symbols = Symbols {
        names: Shared::from(body.text()?.into_bytes()),
        entries: Table::new(body.bytes(16)?.into()),
        by_name: Table::new(body.bytes(4)?.into()),
    };
    let types = Types {
        names: body.text()?,
        types: body.table(ty)?,
        records: body.table(record)?,
        members: body.table(member)?,
        by_name: body.table(u32::from_le_bytes)?,
        enumerators: body.table(enumerator)?,
    };
    if body.left > 0 || (!CHECKSUMS_OFF && body.crc.finalize() != prefix.body_crc) {
        return Err(StoreError::Damaged("the body's checksum is wrong"));
    }
    let profile = Profile { identity: header.identity.clone(), symbols, types };
    Ok((header, profile))
}

fn read_exact(file: &mut dyn Read, buf: &mut [u8]) -> Result<(), StoreError> {
    file.read_exact(buf).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => CUT_SHORT,
        _ => StoreError::Read(error),
    })
}

/// The body as it is read.
struct Body<'f> {
    file: &'f mut dyn Read,
    left: usize,
    crc: crc32fast::Hasher,
    chunk: Vec<u8>,
}

impl Body<'_> {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), StoreError> {
        self.left = self.left.checked_sub(buf.len()).ok_or(CUT_SHORT)?;
        read_exact(self.file, buf)?;
        self.crc.update(buf);
        Ok(())
    }

    /// How many bytes the next part has: no more than are left.
    fn len(&mut self, unit: usize) -> Result<usize, StoreError> {
        let mut count = [0; 4];
        self.fill(&mut count)?;
        let len = (u32::from_le_bytes(count) as usize).checked_mul(unit);
        len.filter(|len| *len <= self.left).ok_or(CUT_SHORT)
    }

    /// The next part as it is, of so many times `unit` bytes.
    fn bytes(&mut self, unit: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; self.len(unit)?];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, StoreError> {
        let bytes = self.bytes(1)?;
        String::from_utf8(bytes).map_err(|_| StoreError::Damaged("not text"))
    }

    fn table<T, const N: usize>(&mut self, get: impl Fn([u8; N]) -> T) -> Result<Vec<T>, StoreError> {
        let len = self.len(N)?;
        let mut items = Vec::with_capacity(len / N);
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(CHUNK_BYTES / N * N, 0);
        let mut done = 0usize;
        while done < len {
            let take = len.saturating_sub(done).min(chunk.len());
            let part = chunk.get_mut(..take).unwrap_or_default();
            self.fill(part)?;
            items.extend(part.as_chunks::<N>().0.iter().map(|chunk| get(*chunk)));
            done = done.saturating_add(take);
        }
        self.chunk = chunk;
        Ok(items)
    }
}

fn encode_body(profile: &Profile) -> Vec<u8> {
    let (symbols, types) = (&profile.symbols, &profile.types);
    let mut out = Vec::with_capacity(16 << 20);
    put_bytes(&mut out, 1, &symbols.names);
    put_bytes(&mut out, 16, symbols.entries.bytes());
    put_bytes(&mut out, 4, symbols.by_name.bytes());
    put_bytes(&mut out, 1, types.names.as_bytes());
    put_table(&mut out, &types.types, put_type);
    put_table(&mut out, &types.records, |r| {
        let words = [r.name.start, r.bytes, r.members_start, r.members_len];
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        join::<20, 3>([&words, &r.name.len.to_le_bytes(), &[r.is_union.into(), 0]])
    });
    put_table(&mut out, &types.members, |m| {
        let words: Vec<u8> =
            [m.name.start, m.ty.0, m.bit_offset].iter().flat_map(|w| w.to_le_bytes()).collect();
        join::<16, 3>([&words, &m.name.len.to_le_bytes(), &[m.bit_size, 0]])
    });
    put_table(&mut out, &types.by_name, |index| join::<4, 1>([&index.to_le_bytes()]));
    put_table(&mut out, &types.enumerators, |(name, value)| {
        join::<16, 4>([&value.to_le_bytes(), &name.start.to_le_bytes(), &name.len.to_le_bytes(), &[0, 0]])
    });
    out
}

fn put_type(ty: &Type) -> [u8; 12] {
    let (tag, small, first, second) = match *ty {
        Type::Integer { bytes, signed, bits } => {
            let (first_bit, width) = bits.unwrap_or((0, 0));
            (if bits.is_some() { 1 } else { 2 }, [signed.into(), first_bit, width], bytes, 0)
        }
        Type::Pointer { target } => (3, [0; 3], target.0, 0),
        Type::Array { element, count } => (4, [0; 3], element.0, count),
        Type::Composite { record } => (5, [0; 3], record, 0),
        Type::Alias(to) => (6, [0; 3], to.0, 0),
        Type::Opaque => (7, [0; 3], 0, 0),
    };
    join([&[tag], &small, &first.to_le_bytes(), &second.to_le_bytes()])
}

fn ty(b: [u8; 12]) -> Type {
    let first = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
    match b[0] {
        1 => Type::Integer { bytes: first, signed: b[1] == 1, bits: Some((b[2], b[3])) },
        2 => Type::Integer { bytes: first, signed: b[1] == 1, bits: None },
        3 => Type::Pointer { target: TypeId(first) },
        4 => Type::Array { element: TypeId(first), count: u32::from_le_bytes([b[8], b[9], b[10], b[11]]) },
        5 => Type::Composite { record: first },
        6 => Type::Alias(TypeId(first)),
        _ => Type::Opaque,
    }
}

fn record(b: [u8; 20]) -> Record {
    Record {
        name: Span {
            start: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            len: u16::from_le_bytes([b[16], b[17]]),
        },
        bytes: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        members_start: u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
        members_len: u32::from_le_bytes([b[12], b[13], b[14], b[15]]),
        is_union: b[18] == 1,
    }
}

fn member(b: [u8; 16]) -> Member {
    Member {
        name: Span {
            start: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            len: u16::from_le_bytes([b[12], b[13]]),
        },
        ty: TypeId(u32::from_le_bytes([b[4], b[5], b[6], b[7]])),
        bit_offset: u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
        bit_size: b[14],
    }
}

fn enumerator(b: [u8; 16]) -> (Span, i64) {
    let start = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
    let span = Span { start, len: u16::from_le_bytes([b[12], b[13]]) };
    (span, i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
}

/// Parts of `unit` bytes each, and how many before them.
fn put_bytes(out: &mut Vec<u8>, unit: usize, bytes: &[u8]) {
    let count = bytes.len().checked_div(unit).unwrap_or(0);
    out.extend((count as u32).to_le_bytes());
    out.extend(bytes);
}

fn put_table<T, const N: usize>(out: &mut Vec<u8>, items: &[T], put: impl Fn(&T) -> [u8; N]) {
    out.extend((items.len() as u32).to_le_bytes());
    out.extend(items.iter().flat_map(put));
}

/// What is left to decode.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], StoreError> {
        let (part, rest) = self.0.split_at_checked(len).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(part)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        self.take(N)?.try_into().map_err(|_| CUT_SHORT)
    }
    fn u8(&mut self) -> Result<u8, StoreError> {
        self.array().map(u8::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32, StoreError> {
        self.array().map(u32::from_le_bytes)
    }
    fn range(&mut self) -> Result<SourceRange, StoreError> {
        let offset_from_text = i64::from_le_bytes(self.array()?);
        Ok(SourceRange { offset_from_text, len_bytes: u64::from_le_bytes(self.array()?) })
    }
    fn text(&mut self) -> Result<String, StoreError> {
        let len = self.u32()? as usize;
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| StoreError::Damaged("not text"))?;
        Ok(text.to_owned())
    }
}
