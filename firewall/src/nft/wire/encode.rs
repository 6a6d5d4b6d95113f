//! Commands as nf_tables' messages.
//!
//! Source: `enum nf_tables_msg_types`, `NFTA_*` (`include/uapi/linux/netfilter/nf_tables.h`), `NFNL_MSG_BATCH_*` (`nfnetlink.h`), Linux 6.1.

use super::attribute::Attributes;
use super::key::Shape;
use super::rule;
use crate::netlink::{ACK, REQUEST, frame};
use crate::nft::model::{Command, Element, Elements, Object, Set, Transaction};
use crate::nft::table::{Path, port_set};
use crate::nft::{ask, closing};

/// `NFNL_SUBSYS_NFTABLES << 8`, and messages of it.
const SUBSYSTEM: u16 = 0x0a00;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
pub(super) const GET_TABLE: u16 = SUBSYSTEM | 1;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM | 4;
const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const DELETE_SET: u16 = SUBSYSTEM | 11;
const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14;
const NEW_OBJECT: u16 = SUBSYSTEM | 18;
const DELETE_OBJECT: u16 = SUBSYSTEM | 20;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 16;
const END: u16 = 17;
/// `NLM_F_CREATE`, `NLM_F_APPEND`.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// Bytes of elements in one message: an attribute's length has 16 bits.
const MAX_ELEMENTS_BYTES: usize = 48_000;

/// A transaction as one datagram, and how many messages of it are commands; none where something of it is better left to nft.
pub(super) fn batch(transaction: &Transaction) -> Option<(Vec<u8>, u32)> {
    let mut batch = Batch::default();
    batch.frame(BEGIN, REQUEST, 0, 10, &Attributes::default())?;
    for command in &transaction.nftables {
        batch.command(command)?;
    }
    batch.acknowledge_last()?;
    let commands = batch.messages.checked_sub(1)?;
    batch.frame(END, REQUEST, 0, 10, &Attributes::default())?;
    Some((batch.bytes, commands))
}

/// One message by itself.
pub(super) fn message(kind: u16, flags: u16, family: &str, attributes: &Attributes) -> Option<Vec<u8>> {
    let mut batch = Batch::default();
    batch.frame(kind, flags, family_number(family)?, 0, attributes)?;
    Some(batch.bytes)
}

/// `NFPROTO_*`, of the families that are written here.
fn family_number(family: &str) -> Option<u8> {
    match family {
        "inet" => Some(1),
        "bridge" => Some(7),
        _ => None,
    }
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    messages: u32,
    /// Where the last message begins.
    last: usize,
    sets: u32,
}

impl Batch {
    /// `struct nlmsghdr`, `struct nfgenmsg`, attributes. Messages are numbered from 0, in order.
    fn frame(&mut self, kind: u16, flags: u16, family: u8, id: u16, attributes: &Attributes) -> Option<()> {
        self.last = self.bytes.len();
        self.bytes.extend(frame(kind, flags, self.messages, (family, id), attributes.as_bytes()));
        self.messages = self.messages.checked_add(1)?;
        Some(())
    }

    fn put(&mut self, kind: u16, flags: u16, family: &str, attributes: &Attributes) -> Option<()> {
        self.frame(kind, flags | REQUEST, family_number(family)?, 0, attributes)
    }

    /// The kernel answers for the last command: that it came to there is known by it.
    fn acknowledge_last(&mut self) -> Option<()> {
        let flags = self.bytes.get_mut(self.last.checked_add(6)?)?;
        *flags |= u8::try_from(ACK).ok()?;
        Some(())
    }

    fn command(&mut self, command: &Command) -> Option<()> {
        match command {
            Command::Add(object) => self.add(object),
            Command::Delete(object) => self.delete(object),
            Command::Flush(Object::Chain(chain)) => {
                let all = Attributes::default().text(1, &chain.table)?.text(2, &chain.name)?;
                self.put(DELETE_RULE, 0, &chain.family, &all)
            }
            Command::Flush(Object::Set(set) | Object::Map(set)) => {
                let all = Attributes::default().text(1, &set.table)?.text(2, &set.name)?;
                self.put(DELETE_ELEMENTS, 0, &set.family, &all)
            }
            Command::Flush(_) => None,
        }
    }

    fn add(&mut self, object: &Object) -> Option<()> {
        match object {
            Object::Chain(chain) if chain.hook.is_none() => {
                let of_it = Attributes::default().text(1, &chain.table)?.text(3, &chain.name)?;
                self.put(NEW_CHAIN, CREATE, &chain.family, &of_it)
            }
            Object::Rule(rule) => self.put(NEW_RULE, CREATE | APPEND, &rule.family, &rule::rule(rule)?),
            Object::Set(set) | Object::Map(set) => self.set(set),
            Object::Element(elements) => self.elements(NEW_ELEMENTS, CREATE, elements),
            Object::Counter(counter) => {
                let zero = Attributes::default().long(1, 0)?.long(2, 0)?;
                let of_it = named(&counter.table, &counter.name, rule::COUNTER)?.nest(4, &zero)?;
                self.put(NEW_OBJECT, CREATE, &counter.family, &of_it)
            }
            Object::Limit(limit) => {
                let of_it =
                    named(&limit.table, &limit.name, rule::LIMIT)?.nest(4, &rule::limit(&limit.limit)?)?;
                self.put(NEW_OBJECT, CREATE, &limit.family, &of_it)
            }
            Object::Chain(_) | Object::Table(_) => None,
        }
    }

    fn delete(&mut self, object: &Object) -> Option<()> {
        match object {
            Object::Chain(chain) => {
                let it = Attributes::default().text(1, &chain.table)?.text(3, &chain.name)?;
                self.put(DELETE_CHAIN, 0, &chain.family, &it)
            }
            Object::Set(set) | Object::Map(set) => {
                let it = Attributes::default().text(1, &set.table)?.text(2, &set.name)?;
                self.put(DELETE_SET, 0, &set.family, &it)
            }
            Object::Element(elements) => self.elements(DELETE_ELEMENTS, 0, elements),
            Object::Counter(counter) => {
                let it = named(&counter.table, &counter.name, rule::COUNTER)?;
                self.put(DELETE_OBJECT, 0, &counter.family, &it)
            }
            Object::Limit(limit) => {
                let it = named(&limit.table, &limit.name, rule::LIMIT)?;
                self.put(DELETE_OBJECT, 0, &limit.family, &it)
            }
            Object::Rule(_) | Object::Table(_) => None,
        }
    }

    fn set(&mut self, set: &Set) -> Option<()> {
        let shape = Shape::of(&set.kind, &set.flags)?;
        let is_verdict = set.map.as_deref() == Some("verdict");
        let is_counter = set.map.as_deref() == Some("counter");
        if set.map.is_some() && !is_verdict && !is_counter {
            return None;
        }
        // `NFT_SET_INTERVAL`, `NFT_SET_MAP`, `NFT_SET_TIMEOUT`, `NFT_SET_OBJECT`, `NFT_SET_CONCAT`.
        let flags = [
            (shape.is_interval(), 0x04),
            (is_verdict, 0x08),
            (set.flags.iter().any(|flag| flag == "timeout"), 0x10),
            (is_counter, 0x40),
            (shape.is_concat_interval(), 0x80),
        ];
        let flags = flags.iter().filter(|(is_it, _)| *is_it).fold(0, |all, (_, flag)| all | flag);
        let len = u32::try_from(shape.len()).ok()?;
        let mut of_it = Attributes::default().text(1, &set.table)?.text(2, &set.name)?.word(3, flags)?;
        of_it = of_it.word(4, shape.number())?.word(5, len)?;
        if is_verdict {
            // `NFT_DATA_VERDICT`.
            of_it = of_it.word(6, 0xffff_ff00)?.word(7, 0)?;
        }
        if is_counter {
            of_it = of_it.word(15, rule::COUNTER)?;
        }
        self.sets = self.sets.checked_add(1)?;
        of_it = of_it.word(10, self.sets)?;
        if shape.is_concat_interval() {
            of_it = of_it.nest(9, &fields(&shape)?)?;
        }
        if let Some(size) = set.size {
            // `NFTA_SET_DESC_SIZE`.
            of_it = of_it.nest(9, &Attributes::default().word(1, size)?)?;
        }
        of_it = of_it.bytes(13, &beside(&shape, is_verdict, is_counter))?;
        self.put(NEW_SET, CREATE, &set.family, &of_it)?;
        self.element_lists(NEW_ELEMENTS, CREATE, (&set.family, &set.table, &set.name), &shape, &set.elem)
    }

    fn elements(&mut self, kind: u16, flags: u16, elements: &Elements) -> Option<()> {
        let path = Path::ALL.into_iter().find(|path| path.family() == elements.family)?;
        let own = closing::set_named(path, &elements.table, &elements.name)
            .or_else(|| port_set(path, &elements.name))
            .or_else(|| ask::map_named(path, &elements.name))?;
        let shape = Shape::of(&own.kind, &own.flags)?;
        let of = (elements.family.as_str(), elements.table.as_str(), elements.name.as_str());
        self.element_lists(kind, flags, of, &shape, &elements.elem)
    }

    fn element_lists(
        &mut self,
        kind: u16,
        flags: u16,
        (family, table, name): (&str, &str, &str),
        shape: &Shape,
        elements: &[Element],
    ) -> Option<()> {
        let mut list = Attributes::default();
        for element in shape.elements(elements)? {
            if list.len() > MAX_ELEMENTS_BYTES {
                let full = std::mem::take(&mut list);
                self.put(
                    kind,
                    flags,
                    family,
                    &Attributes::default().text(1, table)?.text(2, name)?.nest(3, &full)?,
                )?;
            }
            list = list.nest(1, &element)?;
        }
        if list.len() == 0 {
            return Some(());
        }
        self.put(kind, flags, family, &Attributes::default().text(1, table)?.text(2, name)?.nest(3, &list)?)
    }
}

fn named(table: &str, name: &str, kind: u32) -> Option<Attributes> {
    Attributes::default().text(1, table)?.text(2, name)?.word(3, kind)
}

/// `NFTA_SET_DESC_CONCAT`: how long each field is.
fn fields(shape: &Shape) -> Option<Attributes> {
    let mut all = Attributes::default();
    for len in shape.part_lens() {
        let field = Attributes::default().word(1, u32::try_from(len).ok()?)?;
        all = all.nest(1, &field)?;
    }
    Attributes::default().nest(2, &all)
}

/// What nft keeps beside a set, to list it: orders of bytes, whether the key is made of several, what a map's data is.
fn beside(shape: &Shape, is_verdict: bool, is_counter: bool) -> Vec<u8> {
    let entry = |kind: u8, value: u32| [&[kind, 4][..], &value.to_ne_bytes()].concat();
    let mut bytes = entry(0, shape.order());
    if is_verdict {
        bytes.extend(entry(1, 0));
    }
    if shape.is_concat() {
        // A nested entry: an expression of the kind `concat`, with nothing in it.
        bytes.extend([3, 8]);
        bytes.extend([&[0, 4][..], &13u32.to_ne_bytes(), &[1, 0]].concat());
    }
    if is_verdict || is_counter {
        bytes.extend(entry(6, 0));
    }
    bytes
}
