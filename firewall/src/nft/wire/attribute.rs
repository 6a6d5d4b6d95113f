//! Attributes of nfnetlink's messages, as they are written.

use crate::netlink::attribute_bytes;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// An attribute's length has 16 bits.
const MAX_BYTES: usize = 60_000;

/// Attributes, one behind the other.
#[derive(Clone, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// One of bytes; none when they are more than an attribute can hold.
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Option<Attributes> {
        if value.len() > MAX_BYTES {
            return None;
        }
        self.0.extend(attribute_bytes(kind, value));
        Some(self)
    }

    /// One of text, with its final zero.
    pub(super) fn text(self, kind: u16, text: &str) -> Option<Attributes> {
        self.bytes(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// One of 16 bits.
    pub(super) fn half(self, kind: u16, value: u16) -> Option<Attributes> {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// One of 32 bits.
    pub(super) fn word(self, kind: u16, value: u32) -> Option<Attributes> {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// One of 64 bits.
    pub(super) fn long(self, kind: u16, value: u64) -> Option<Attributes> {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// One that holds others.
    pub(super) fn nest(self, kind: u16, inner: &Attributes) -> Option<Attributes> {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// How long they are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// As they are sent.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
