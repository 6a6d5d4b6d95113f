//! Things that include each other, in an order in which what is included comes first.

use std::collections::BTreeMap;

/// The names in such an order, and the ways round that there are. A way round is cut where it closes, so that the rest is still in order.
/// No recursion: ten thousand groups may form one chain.
pub(crate) fn sorted<'a>(includes: &BTreeMap<&'a str, Vec<&'a str>>) -> (Vec<&'a str>, Vec<Vec<&'a str>>) {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum State {
        Open,
        Done,
    }
    let (mut order, mut cycles) = (Vec::new(), Vec::new());
    let mut states: BTreeMap<&str, State> = BTreeMap::new();
    for start in includes.keys() {
        if states.contains_key(start) {
            continue;
        }
        states.insert(start, State::Open);
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((name, next)) = path.last_mut() {
            let name: &'a str = name;
            let Some(child) = includes.get(name).and_then(|children| children.get(*next)).copied() else {
                states.insert(name, State::Done);
                order.push(name);
                path.pop();
                continue;
            };
            *next += 1;
            match states.get(child) {
                Some(State::Done) => {}
                Some(State::Open) => {
                    let from = path.iter().position(|(name, _)| *name == child).unwrap_or(0);
                    cycles.push(path[from..].iter().map(|(name, _)| *name).collect());
                }
                None => {
                    states.insert(child, State::Open);
                    path.push((child, 0));
                }
            }
        }
    }
    (order, cycles)
}

/// A way round for people: its first members, and how many more.
pub(crate) fn told(cycle: &[&str]) -> String {
    const SHOWN: usize = 6;
    let first = cycle.first().copied().unwrap_or_default();
    let shown = cycle.iter().take(SHOWN).copied().collect::<Vec<_>>().join(" → ");
    match cycle.len().saturating_sub(SHOWN) {
        0 => format!("{shown} → {first}"),
        more => format!("{shown} → … {more} more … → {first}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_included_comes_first() {
        let includes = BTreeMap::from([("a", vec!["b", "c"]), ("b", vec!["c"]), ("c", vec![])]);
        assert_eq!(sorted(&includes), (vec!["c", "b", "a"], vec![]));
    }

    #[test]
    fn a_way_round_is_told_and_the_rest_is_in_order() {
        let includes =
            BTreeMap::from([("a", vec!["b"]), ("b", vec!["a"]), ("c", vec!["a"]), ("d", vec!["d"])]);
        let (order, cycles) = sorted(&includes);
        assert_eq!(order, ["b", "a", "c", "d"]);
        assert_eq!(cycles, [vec!["a", "b"], vec!["d"]]);
        assert_eq!(told(&cycles[0]), "a → b → a");
    }

    #[test]
    fn a_chain_of_many_is_no_deep_recursion() {
        let names: Vec<String> = (0..100_000).map(|n| format!("g{n:06}")).collect();
        let next = |n: usize| names.get(n + 1).or(names.first()).unwrap().as_str();
        let includes = names.iter().enumerate().map(|(n, name)| (name.as_str(), vec![next(n)])).collect();
        let (order, cycles) = sorted(&includes);
        assert_eq!((order.len(), cycles.len()), (100_000, 1));
        assert!(told(&cycles[0]).contains("99994 more"));
    }
}
