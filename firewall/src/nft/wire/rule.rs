//! Rules as the kernel's expressions.
//!
//! Sources: `NFTA_META_*`, `NFTA_CT_*`, `NFTA_BITWISE_*`, `NFTA_CMP_*`, `NFTA_LOOKUP_*`, `NFTA_OBJREF_*`, `NFTA_LIMIT_*`, `NFTA_LOG_*`, `NFTA_IMMEDIATE_*`
//! (`include/uapi/linux/netfilter/nf_tables.h`, Linux 6.1).

use super::attribute::Attributes;
use super::key::{Part, data, protocol};
use crate::nft::model::{CounterRef, Expr, Jump, Limit, LimitRef, Lookup, Match, Rule, Statement};

/// `NFT_REG32_00`: the first of the registers of four bytes.
const FIRST_REGISTER: u32 = 8;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;
/// `NFT_OBJECT_COUNTER`, `NFT_OBJECT_LIMIT`.
pub(super) const COUNTER: u32 = 1;
pub(super) const LIMIT: u32 = 4;

/// A rule's attributes.
pub(super) fn rule(rule: &Rule) -> Option<Attributes> {
    let mut steps = Steps::default();
    rule.expr.iter().try_for_each(|statement| steps.statement(statement))?;
    Attributes::default().text(1, &rule.table)?.text(2, &rule.chain)?.nest(4, &steps.0)
}

/// What a limit says, by itself or named.
pub(super) fn limit(limit: &Limit) -> Option<Attributes> {
    let seconds = match limit.per.as_str() {
        "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        "day" => 86400,
        _ => return None,
    };
    let rate = Attributes::default().long(1, limit.rate.into())?.long(2, seconds)?;
    rate.word(3, limit.burst)?.word(4, 0)?.word(5, 0)
}

/// A verdict, as an immediate and as an element's data.
pub(super) fn verdict_data(jump: &Jump) -> Option<Attributes> {
    // `NF_DROP`, `NFT_JUMP`, `NFT_GOTO`, `NFT_RETURN`.
    let (code, chain) = match jump {
        Jump::Drop(()) => (0, None),
        Jump::Jump(target) => (-3, Some(&target.target)),
        Jump::Goto(target) => (-4, Some(&target.target)),
        Jump::Return(()) => (-5, None),
    };
    verdict(code, chain.map(String::as_str))
}

fn verdict(code: i32, chain: Option<&str>) -> Option<Attributes> {
    let mut inner = Attributes::default().bytes(1, &code.to_be_bytes())?;
    if let Some(chain) = chain {
        inner = inner.text(2, chain)?;
    }
    Attributes::default().nest(2, &inner)
}

/// The expressions of a rule, so far.
#[derive(Default)]
struct Steps(Attributes);

impl Steps {
    fn push(&mut self, name: &str, of_it: &Attributes) -> Option<()> {
        let step = Attributes::default().text(1, name)?.nest(2, of_it)?;
        self.0 = std::mem::take(&mut self.0).nest(1, &step)?;
        Some(())
    }

    fn statement(&mut self, statement: &Statement) -> Option<()> {
        match statement {
            Statement::Match(wanted) => self.compare(wanted),
            Statement::Counter(CounterRef::Name(name)) => self.object(COUNTER, name),
            Statement::Counter(CounterRef::Map { map }) => self.counter_of(map),
            Statement::Vmap(map) => {
                self.load(&map.key)?;
                let lookup = lookup(&map.data)?.word(3, VERDICT)?;
                self.push("lookup", &lookup)
            }
            Statement::Limit(LimitRef::Name(name)) => self.object(LIMIT, name),
            Statement::Limit(LimitRef::Own(own)) => self.push("limit", &limit(own)?),
            Statement::Log(log) => {
                let group = u16::try_from(log.group).ok()?;
                self.push("log", &Attributes::default().text(2, &log.prefix)?.half(1, group)?)
            }
            Statement::Mangle(mangle) => self.set_mark(&mangle.key, &mangle.value),
            Statement::Jump(target) => self.verdict(-3, Some(&target.target)),
            Statement::Goto(target) => self.verdict(-4, Some(&target.target)),
            Statement::Return(()) => self.verdict(-5, None),
            Statement::Accept(()) => self.verdict(1, None),
            Statement::Drop(()) => self.verdict(0, None),
            Statement::Reject(_) | Statement::Queue(_) => None,
        }
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) -> Option<()> {
        self.push("immediate", &Attributes::default().word(1, VERDICT)?.nest(2, &verdict(code, chain)?)?)
    }

    fn object(&mut self, kind: u32, name: &str) -> Option<()> {
        self.push("objref", &Attributes::default().word(1, kind)?.text(2, name)?)
    }

    fn counter_of(&mut self, map: &Lookup) -> Option<()> {
        self.load(&map.key)?;
        self.push("objref", &Attributes::default().word(3, FIRST_REGISTER)?.text(4, set_name(&map.data)?)?)
    }

    /// `NFT_CMP_EQ`, `NFT_CMP_NEQ`, or a lookup in a set.
    fn compare(&mut self, wanted: &Match) -> Option<()> {
        let op = match wanted.op.as_str() {
            "==" => 0,
            "!=" => 1,
            _ => return None,
        };
        if let (Expr::Text(text), 0) = (&wanted.right, op)
            && text.starts_with('@')
        {
            self.load(&wanted.left)?;
            return self.push("lookup", &lookup(text)?);
        }
        if let (Expr::Range(ends), 0) = (&wanted.right, op) {
            return self.between(&wanted.left, ends);
        }
        let value = match (&wanted.left, &wanted.right) {
            (Expr::Meta { key }, Expr::Text(name)) if key == "l4proto" => vec![protocol(name)?],
            (Expr::Ct { key, dir: None }, Expr::Number(mark)) if key == "mark" => {
                u32::try_from(*mark).ok()?.to_ne_bytes().to_vec()
            }
            _ => return None,
        };
        self.load(&wanted.left)?;
        let of_it = Attributes::default().word(1, FIRST_REGISTER)?.word(2, op)?.nest(3, &data(&value)?)?;
        self.push("cmp", &of_it)
    }

    /// `NFT_CMP_GTE`, `NFT_CMP_LTE`.
    fn between(&mut self, left: &Expr, ends: &[Expr; 2]) -> Option<()> {
        let part = match left {
            Expr::Meta { key } if key == "l4proto" => Part::Protocol,
            Expr::Ct { key, .. } if key.starts_with("proto-") => Part::Service,
            _ => return None,
        };
        self.load(left)?;
        for (op, end) in [(5, &ends[0]), (3, &ends[1])] {
            let of_it = Attributes::default().word(1, FIRST_REGISTER)?.word(2, op)?;
            self.push("cmp", &of_it.nest(3, &data(&part.value(end)?)?)?)?;
        }
        Some(())
    }

    /// Puts what is compared or looked up into registers, from the first.
    fn load(&mut self, expr: &Expr) -> Option<()> {
        let Expr::Concat(parts) = expr else { return self.load_part(expr, FIRST_REGISTER, false).map(drop) };
        let mut register = FIRST_REGISTER;
        for part in parts {
            register = self.load_part(part, register, true)?;
        }
        Some(())
    }

    /// The next free register.
    fn load_part(&mut self, expr: &Expr, register: u32, is_part: bool) -> Option<u32> {
        match expr {
            Expr::Meta { key } => {
                // `NFT_META_MARK`, `NFT_META_IIFNAME`, `NFT_META_OIFNAME`, `NFT_META_L4PROTO`.
                let (number, registers) = match key.as_str() {
                    "mark" => (3, 1),
                    "iifname" => (6, 4),
                    "oifname" => (7, 4),
                    "l4proto" => (16, 1),
                    _ => return None,
                };
                self.push("meta", &Attributes::default().word(2, number)?.word(1, register)?)?;
                if is_part && key == "l4proto" {
                    self.network_order(register)?;
                }
                register.checked_add(registers)
            }
            Expr::Ct { key, dir } => {
                let (number, registers) = ct_key(key)?;
                let mut of_it = Attributes::default().word(2, number)?.word(1, register)?;
                if let Some(dir) = dir {
                    of_it = of_it.bytes(3, &[u8::from(dir == "reply")])?;
                }
                self.push("ct", &of_it)?;
                register.checked_add(registers)
            }
            Expr::And(both) => {
                let next = self.load_part(&both[0], register, is_part)?;
                self.mask(register, &both[1])?;
                Some(next)
            }
            _ => None,
        }
    }

    /// `NFTA_BITWISE_*`: the bits of an address that a mask has.
    fn mask(&mut self, register: u32, mask: &Expr) -> Option<()> {
        let mask = Part::Ip4.value(mask).or_else(|| Part::Ip6.value(mask))?;
        let of_it = Attributes::default().word(1, register)?.word(2, register)?;
        let of_it = of_it.word(3, u32::try_from(mask.len()).ok()?)?.nest(4, &data(&mask)?)?;
        self.push("bitwise", &of_it.nest(5, &data(&vec![0; mask.len()])?)?)
    }

    /// `NFT_BYTEORDER_HTON`, of one byte: it changes nothing, and nft writes it too.
    fn network_order(&mut self, register: u32) -> Option<()> {
        let of_it = Attributes::default().word(1, register)?.word(2, register)?.word(3, 1)?;
        self.push("byteorder", &of_it.word(4, 1)?.word(5, 2)?)
    }

    fn set_mark(&mut self, key: &Expr, value: &Expr) -> Option<()> {
        let (Expr::Ct { key, dir: None }, Expr::Number(mark)) = (key, value) else { return None };
        let (number, _) = ct_key(key).filter(|_| key == "mark")?;
        let mark = u32::try_from(*mark).ok()?.to_ne_bytes();
        self.push("immediate", &Attributes::default().word(1, FIRST_REGISTER)?.nest(2, &data(&mark)?)?)?;
        // `NFTA_CT_SREG`.
        self.push("ct", &Attributes::default().word(2, number)?.word(4, FIRST_REGISTER)?)
    }
}

/// `enum nft_ct_keys`, and how many registers it takes.
fn ct_key(name: &str) -> Option<(u32, u32)> {
    Some(match name {
        "mark" => (3, 1),
        "proto-src" => (11, 1),
        "proto-dst" => (12, 1),
        "ip saddr" => (19, 1),
        "ip daddr" => (20, 1),
        "ip6 saddr" => (21, 4),
        "ip6 daddr" => (22, 4),
        _ => return None,
    })
}

fn set_name(reference: &str) -> Option<&str> {
    reference.strip_prefix('@')
}

/// A lookup of what is in the registers.
fn lookup(reference: &str) -> Option<Attributes> {
    Attributes::default().text(1, set_name(reference)?)?.word(2, FIRST_REGISTER)
}
