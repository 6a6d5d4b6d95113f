//! How many of some strings, rules or numbers.

use super::super::terms::{Selection, Term};
use super::{Evaluation, MAX_STEPS, Value};

/// How many are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Quota {
    All,
    None,
    /// One or more.
    AtLeast(i64),
}

impl Evaluation<'_> {
    pub(super) fn of_rules(&mut self, selection: &Selection, rules: &[u32]) -> Value {
        self.selected(selection, rules.len(), |evaluation, index| match rules.get(index) {
            Some(rule) => evaluation.rule(*rule),
            None => Value::Unknown,
        })
    }

    pub(super) fn of_strings(&mut self, selection: &Selection, strings: &[u32], body: &Term) -> Value {
        let before = self.current;
        let value = self.selected(selection, strings.len(), |evaluation, index| {
            evaluation.current = strings.get(index).copied();
            evaluation.value(body)
        });
        self.current = before;
        value
    }

    /// How many of `count` are asked for, or what that alone says.
    fn quota(&mut self, selection: &Selection, count: usize) -> Result<Quota, Value> {
        let (wanted, is_part) = match selection {
            Selection::All => return Ok(Quota::All),
            Selection::None => return Ok(Quota::None),
            Selection::AtLeast(wanted) => (wanted, false),
            Selection::Percent(wanted) => (wanted, true),
        };
        match self.value(wanted) {
            Value::Integer(0) if !is_part => Ok(Quota::None),
            Value::Integer(number) => match if is_part { percent(number, count) } else { number } {
                wanted @ 1.. => Ok(Quota::AtLeast(wanted)),
                _ => Err(Value::Boolean(true)),
            },
            Value::Unknown => Err(Value::Unknown),
            Value::Undefined | Value::Untrue | Value::Boolean(_) => Err(Value::Boolean(false)),
        }
    }

    /// Whether so many of `count` are true.
    fn selected(
        &mut self,
        selection: &Selection,
        count: usize,
        mut body: impl FnMut(&mut Self, usize) -> Value,
    ) -> Value {
        let quota = match self.quota(selection, count) {
            Ok(quota) => quota,
            Err(value) => return value,
        };
        let (mut sure, mut unsure) = (0i64, 0i64);
        for index in 0..count {
            let value = body(self, index).truth();
            if self.steps > MAX_STEPS {
                return Value::Unknown;
            }
            match value {
                Value::Boolean(true) => sure = sure.saturating_add(1),
                Value::Unknown => unsure = unsure.saturating_add(1),
                _ if quota == Quota::All => return Value::Boolean(false),
                _ => {}
            }
            match quota {
                Quota::None if sure > 0 => return Value::Boolean(false),
                Quota::AtLeast(wanted) if sure >= wanted => return Value::Boolean(true),
                _ => {}
            }
        }
        match quota {
            Quota::All | Quota::None if unsure == 0 => Value::Boolean(true),
            Quota::AtLeast(wanted) if sure.saturating_add(unsure) < wanted => Value::Boolean(false),
            _ => Value::Unknown,
        }
    }

    pub(super) fn of_numbers(&mut self, selection: &Selection, [from, to, body]: &[Term; 3]) -> Value {
        let depth = self.bound.len();
        let (from, to) = match [from, to].map(|term| self.value(term).number()) {
            [Some(Value::Integer(from)), Some(Value::Integer(to))] => (from, to),
            [None, _] | [_, None] => return self.of_nothing(selection),
            _ => {
                self.bound.push(Value::Unknown);
                let value = self.value(body);
                self.bound.truncate(depth);
                let wants_some = match selection {
                    Selection::All => true,
                    Selection::AtLeast(wanted) => matches!(**wanted, Term::Integer(1..)),
                    Selection::None | Selection::Percent(_) => false,
                };
                // For no number, however many there are.
                let is_false = wants_some && !value.may_be_true();
                return if is_false { Value::Boolean(false) } else { Value::Unknown };
            }
        };
        if from > to {
            return self.of_nothing(selection);
        }
        let count = to.checked_sub(from).and_then(|last| usize::try_from(last).ok()?.checked_add(1));
        let Some(count) = count.filter(|count| *count <= MAX_STEPS as usize) else { return Value::Unknown };
        self.selected(selection, count, |evaluation, index| {
            let number = i64::try_from(index).ok().and_then(|index| from.checked_add(index));
            evaluation.bound.push(number.map_or(Value::Unknown, Value::Integer));
            let value = evaluation.value(body);
            evaluation.bound.truncate(depth);
            value
        })
    }

    /// A loop over nothing is false, unless it asks for less than nothing.
    fn of_nothing(&mut self, selection: &Selection) -> Value {
        self.quota(selection, 0).map_or_else(|value| value, |_| Value::Boolean(false))
    }
}

/// So many of a hundred, rounded up, calculated as the engine does.
fn percent(number: i64, count: usize) -> i64 {
    (number as f64 / 100. * count as f64).ceil() as i64
}
