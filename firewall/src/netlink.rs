//! The frames of nfnetlink's messages, as NFLOG and NFQUEUE send them.
//!
//! *Trusts*: nothing of a length. *Never*: reads past one.
//!
//! Layouts: `struct nlmsghdr`, `struct nlattr` (`include/uapi/linux/netlink.h`), `struct nfgenmsg` (`nfnetlink.h`), Linux 6.1.

/// `NLM_F_REQUEST`, `NLM_F_ACK`, and both.
pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const REQUEST_AND_ACK: u16 = REQUEST | ACK;
/// `NLMSG_ERROR`.
pub(crate) const ERROR: u16 = 2;
/// Bytes of each packet that are asked for: headers with all usual options.
pub(crate) const COPIED_BYTES: u32 = 256;
pub(crate) const HEADER_BYTES: usize = 16;
/// `struct nfgenmsg`.
pub(crate) const GENERAL_BYTES: usize = 4;

/// A message to nfnetlink, about a group or a queue.
pub(crate) fn message(kind: u16, flags: u16, number: u16, attributes: &[u8]) -> Vec<u8> {
    frame(kind, flags, 0, (0, number), attributes)
}

/// The same with its place in a sequence, about a family and a number.
pub(crate) fn frame(
    kind: u16,
    flags: u16,
    sequence: u32,
    (family, number): (u8, u16),
    attributes: &[u8],
) -> Vec<u8> {
    let len = (HEADER_BYTES + GENERAL_BYTES + attributes.len()) as u32;
    let mut message = len.to_le_bytes().to_vec();
    message.extend(kind.to_le_bytes());
    message.extend(flags.to_le_bytes());
    message.extend(sequence.to_le_bytes());
    message.extend([0; 4]);
    message.extend([family, 0]);
    message.extend(number.to_be_bytes());
    message.extend(attributes);
    message
}

/// An attribute of a message.
pub(crate) fn attribute_bytes(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The messages of a datagram: kind and body, up to the first that is cut off.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::try_from(word(datagram, 0)?).ok()?;
        let message = datagram.get(..len).filter(|_| len >= HEADER_BYTES)?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((half(message, 4)?, message.get(HEADER_BYTES..).unwrap_or_default()))
    })
}

/// The attributes of a message behind its general part: kind and value; none in place of one that is cut off.
pub(crate) fn attributes(body: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    let mut rest = body.get(GENERAL_BYTES..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = half(rest, 0).map(usize::from).filter(|len| *len >= 4)?;
        // The two highest bits are flags.
        let attribute = rest.get(4..len).zip(half(rest, 2)).map(|(value, kind)| (kind & 0x3fff, value));
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

/// A little-endian number, as frames have it.
pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The same of 32 bits.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A big-endian number, as attributes and packets have it.
pub(crate) fn big_half(bytes: &[u8], at: usize) -> Option<u16> {
    half(bytes, at).map(u16::swap_bytes)
}

/// The same of 32 bits.
pub(crate) fn big_word(bytes: &[u8], at: usize) -> Option<u32> {
    word(bytes, at).map(u32::swap_bytes)
}
