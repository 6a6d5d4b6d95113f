//! A reader of nft's JSON that does with a packet what the kernel would: written from nft(8), not from our compiler.
//!
//! It takes transactions as the kernel does: what is referred to must be there, what is in use cannot be deleted, and if one command
//! fails none has happened.

mod values;

use lynceus_firewall::nft::model::*;
use lynceus_policy::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use values::{Value, constant, is_in, overlaps, value};

/// What the kernel knows of a packet.
pub(crate) struct Packet<'a> {
    pub(crate) hook: &'a str,
    pub(crate) iifname: &'a str,
    pub(crate) oifname: &'a str,
    pub(crate) source: IpAddr,
    pub(crate) original: (IpAddr, IpAddr),
    pub(crate) protocol: u8,
    /// Destination port of the first packet, or ICMP type and code.
    pub(crate) number: u16,
    pub(crate) is_reply: bool,
    pub(crate) state: &'a str,
    pub(crate) mark: u32,
    pub(crate) at: Timestamp,
    /// What the names of the limits begin with that are used up.
    pub(crate) exhausted: &'a BTreeSet<String>,
}

#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Ruleset {
    tables: BTreeSet<String>,
    chains: BTreeMap<String, (Chain, Vec<Vec<Statement>>)>,
    sets: BTreeMap<String, Set>,
    counters: BTreeMap<String, u64>,
    limits: BTreeSet<String>,
}

/// What became of a packet, and its mark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fate {
    pub(crate) is_accepted: bool,
    pub(crate) is_rejected: bool,
    pub(crate) mark: u32,
    pub(crate) counted: Vec<String>,
}

enum Flow {
    Continue,
    Return,
    Accept,
    Drop,
    Reject,
}

impl Ruleset {
    /// Does all of it or nothing.
    pub(crate) fn apply(&mut self, transaction: &Transaction) -> Result<(), String> {
        let mut next = self.clone();
        for command in &transaction.nftables {
            next.command(command)
                .map_err(|why| format!("{why}: {}", serde_json::to_string(command).unwrap()))?;
        }
        next.is_whole()?;
        *self = next;
        Ok(())
    }

    pub(crate) fn counters(&self) -> &BTreeMap<String, u64> {
        &self.counters
    }

    fn command(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Add(object) => self.add(object),
            Command::Delete(object) => self.delete(object),
            Command::Flush(Object::Chain(chain)) => {
                self.chains.get_mut(&chain.name).ok_or("no such chain")?.1.clear();
                Ok(())
            }
            Command::Flush(Object::Map(map) | Object::Set(map)) => {
                self.sets.get_mut(&map.name).ok_or("no such map")?.elem.clear();
                Ok(())
            }
            Command::Flush(_) => Err("cannot be flushed here".to_owned()),
        }
    }

    fn add(&mut self, object: &Object) -> Result<(), String> {
        match object {
            Object::Table(table) => {
                self.tables.insert(table.name.clone());
            }
            Object::Chain(chain) => {
                self.chains.entry(chain.name.clone()).or_insert((chain.clone(), Vec::new()));
            }
            Object::Rule(rule) => {
                self.chains.get_mut(&rule.chain).ok_or("no such chain")?.1.push(rule.expr.clone());
                self.is_whole()?;
            }
            Object::Set(set) | Object::Map(set) => {
                let empty = Set { elem: Vec::new(), ..set.clone() };
                let there = self.sets.entry(set.name.clone()).or_insert_with(|| empty.clone());
                if (Set { elem: Vec::new(), ..there.clone() }) != empty {
                    return Err("another set of that name is there".to_owned());
                }
                self.add_elements(&set.name, &set.elem)?;
            }
            Object::Element(elements) => self.add_elements(&elements.name, &elements.elem)?,
            Object::Counter(counter) => {
                self.counters.entry(counter.name.clone()).or_insert(0);
            }
            Object::Limit(limit) => {
                self.limits.insert(limit.name.clone());
            }
        }
        Ok(())
    }

    fn add_elements(&mut self, name: &str, elements: &[Element]) -> Result<(), String> {
        let set = self.sets.get_mut(name).ok_or("no such set")?;
        for element in elements {
            let (counter, key) = match element {
                Element::Counter(key, counter) => (Some(counter), key),
                Element::Verdict(key, _) | Element::Key(key) => (None, key),
            };
            if counter.is_some_and(|name| !self.counters.contains_key(name)) {
                return Err(format!("no such counter: {counter:?}"));
            }
            for other in &set.elem {
                let (Element::Counter(other, _) | Element::Verdict(other, _) | Element::Key(other)) = other;
                if overlaps(key, other) {
                    return Err(format!("{key:?} overlaps {other:?}"));
                }
            }
            set.elem.push(element.clone());
        }
        Ok(())
    }

    fn delete(&mut self, object: &Object) -> Result<(), String> {
        match object {
            Object::Table(table) => {
                if !self.tables.remove(&table.name) {
                    return Err("no such table".to_owned());
                }
                *self = Ruleset::default();
                Ok(())
            }
            Object::Chain(chain) => {
                self.chains.remove(&chain.name).ok_or("no such chain")?;
                self.is_whole()
            }
            Object::Set(set) | Object::Map(set) => {
                self.sets.remove(&set.name).ok_or("no such set")?;
                self.is_whole()
            }
            Object::Element(elements) => {
                let set = self.sets.get_mut(&elements.name).ok_or("no such set")?;
                for gone in &elements.elem {
                    let at = set.elem.iter().position(|element| element == gone).ok_or("no such element")?;
                    set.elem.remove(at);
                }
                Ok(())
            }
            Object::Counter(counter) => {
                self.counters.remove(&counter.name).ok_or("no such counter")?;
                self.is_whole()
            }
            Object::Limit(limit) => {
                if !self.limits.remove(&limit.name) {
                    return Err("no such limit".to_owned());
                }
                self.is_whole()
            }
            Object::Rule(_) => Err("rules are flushed, not deleted".to_owned()),
        }
    }

    /// Whether everything that is referred to is there.
    fn is_whole(&self) -> Result<(), String> {
        let targets = self.sets.values().flat_map(|set| &set.elem).filter_map(|element| match element {
            Element::Verdict(_, Jump::Jump(target) | Jump::Goto(target)) => Some(&target.target),
            _ => None,
        });
        let statements = || self.chains.values().flat_map(|(_, rules)| rules).flatten();
        let jumps = statements().filter_map(|statement| match statement {
            Statement::Jump(target) | Statement::Goto(target) => Some(&target.target),
            _ => None,
        });
        if let Some(missing) = targets.chain(jumps).find(|target| !self.chains.contains_key(*target)) {
            return Err(format!("a jump to {missing}, which is not there"));
        }
        for statement in statements() {
            let (set, counter, limit) = match statement {
                Statement::Match(Match { right: Expr::Text(text), .. }) => {
                    (text.strip_prefix('@'), None, None)
                }
                Statement::Vmap(map) | Statement::Counter(CounterRef::Map { map }) => {
                    (map.data.strip_prefix('@'), None, None)
                }
                Statement::Counter(CounterRef::Name(name)) => (None, Some(name), None),
                Statement::Limit(LimitRef::Name(name)) => (None, None, Some(name)),
                _ => (None, None, None),
            };
            let counter = counter.is_none_or(|name| self.counters.contains_key(name));
            if !set.is_none_or(|name| self.sets.contains_key(name))
                || !counter
                || !limit.is_none_or(|name| self.limits.contains(name))
            {
                return Err(format!("{statement:?} refers to what is not there"));
            }
        }
        for set in self.sets.values() {
            for element in &set.elem {
                if let Element::Counter(_, name) = element
                    && !self.counters.contains_key(name)
                {
                    return Err(format!("the counter {name} is in use"));
                }
            }
        }
        Ok(())
    }

    /// What becomes of a packet at a hook.
    pub(crate) fn run(&mut self, packet: &Packet<'_>) -> Fate {
        let mut fate = Fate { is_accepted: true, is_rejected: false, mark: packet.mark, counted: Vec::new() };
        let flow = self.chain(packet.hook, packet, &mut fate, 0);
        let policy =
            self.chains.get(packet.hook).and_then(|(chain, _)| chain.policy.as_deref()) == Some("drop");
        fate.is_accepted = match flow {
            Flow::Accept => true,
            Flow::Drop | Flow::Reject => false,
            Flow::Continue | Flow::Return => !policy,
        };
        fate.is_rejected = matches!(flow, Flow::Reject);
        for name in &fate.counted {
            *self.counters.entry(name.clone()).or_default() += 1;
        }
        fate
    }

    fn chain(&self, name: &str, packet: &Packet<'_>, fate: &mut Fate, depth: usize) -> Flow {
        // NFT_JUMP_STACK_SIZE.
        assert!(depth < 16, "jumps are too deep");
        let Some((_, rules)) = self.chains.get(name) else { return Flow::Continue };
        'rules: for rule in rules {
            for statement in rule {
                let (target, comes_back) = match statement {
                    Statement::Match(compare) => {
                        if !self.compares(compare, packet, fate.mark) {
                            continue 'rules;
                        }
                        continue;
                    }
                    Statement::Counter(CounterRef::Name(name)) => {
                        fate.counted.push(name.clone());
                        continue;
                    }
                    Statement::Counter(CounterRef::Map { map }) => {
                        match self.looked_up(map, packet, fate.mark) {
                            Some(Element::Counter(_, name)) => fate.counted.push(name.clone()),
                            _ => continue 'rules,
                        }
                        continue;
                    }
                    Statement::Limit(LimitRef::Name(name)) => {
                        if packet.exhausted.iter().any(|rule| name.starts_with(rule)) {
                            continue 'rules;
                        }
                        continue;
                    }
                    Statement::Limit(LimitRef::Own(_)) | Statement::Log(_) => continue,
                    Statement::Mangle(mangle) => {
                        if let Some(Value::Number(mark)) = constant(&mangle.value) {
                            fate.mark = mark as u32;
                        }
                        continue;
                    }
                    Statement::Vmap(map) => match self.looked_up(map, packet, fate.mark) {
                        Some(Element::Verdict(_, Jump::Jump(target))) => (target.target.clone(), true),
                        Some(Element::Verdict(_, Jump::Goto(target))) => (target.target.clone(), false),
                        Some(Element::Verdict(_, Jump::Return(()))) => return Flow::Return,
                        Some(Element::Verdict(_, Jump::Drop(()))) => return Flow::Drop,
                        _ => continue 'rules,
                    },
                    Statement::Jump(target) => (target.target.clone(), true),
                    Statement::Goto(target) => (target.target.clone(), false),
                    Statement::Accept(()) => return Flow::Accept,
                    Statement::Drop(()) => return Flow::Drop,
                    Statement::Reject(_) => return Flow::Reject,
                    Statement::Return(()) => return Flow::Return,
                    // Nobody reads it.
                    Statement::Queue(_) => return Flow::Drop,
                };
                let there = self.chain(&target, packet, fate, depth + 1);
                match there {
                    Flow::Continue | Flow::Return if comes_back => continue 'rules,
                    Flow::Continue | Flow::Return => return Flow::Return,
                    end => return end,
                }
            }
        }
        Flow::Continue
    }

    fn looked_up(&self, map: &Lookup, packet: &Packet<'_>, mark: u32) -> Option<&Element> {
        let key = value(&map.key, packet, mark)?;
        self.sets.get(map.data.strip_prefix('@')?)?.elem.iter().find(|element| {
            let (Element::Counter(of, _) | Element::Verdict(of, _) | Element::Key(of)) = element;
            is_in(&key, of)
        })
    }

    fn compares(&self, compare: &Match, packet: &Packet<'_>, mark: u32) -> bool {
        let Some(left) = value(&compare.left, packet, mark) else { return false };
        let set = match &compare.right {
            Expr::Text(text) => text.strip_prefix('@').and_then(|name| self.sets.get(name)),
            _ => None,
        };
        let is_in_it = match set {
            Some(set) => set.elem.iter().any(|element| {
                let (Element::Counter(of, _) | Element::Verdict(of, _) | Element::Key(of)) = element;
                is_in(&left, of)
            }),
            None => is_in(&left, &compare.right),
        };
        match (compare.op.as_str(), &left, constant(&compare.right)) {
            ("==" | "in", ..) => is_in_it,
            ("!=", ..) => !is_in_it,
            ("<", Value::Number(left), Some(Value::Number(right))) => *left < right,
            (">=", Value::Number(left), Some(Value::Number(right))) => *left >= right,
            other => panic!("unknown comparison {other:?}"),
        }
    }
}
