//! Changes that go to the kernel without nft: what nft lists afterwards is what it lists when it made the change itself.
//!
//! Needs root, nft and ip, as `cargo xtask test` sees to; `packets_` in a name tells.

mod random;

use lynceus_firewall::Moment;
use lynceus_firewall::host::{Host, Port};
use lynceus_firewall::nft::ask::{Connection, answer};
use lynceus_firewall::nft::table::{self, Path, Tables};
use lynceus_firewall::nft::{Change, Nft, install, update};
use lynceus_policy::{Direction, Lane, Policy, Timestamp, Verdict};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;

const NOW: Timestamp = Timestamp(1_780_272_000);

/// A network namespace with nothing in it, gone with it.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Namespace {
        let name = format!("wire{}{name}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).status().unwrap();
        assert!(made.success(), "network namespaces need root");
        Namespace(name)
    }

    /// Does something in it, on a thread of its own.
    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::scope(|scope| {
            let inside = move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            };
            scope.spawn(inside).join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn tables(policy: &Policy, generation: u32) -> Tables {
    let mut host = Host::default();
    for vm in policy.vms.values() {
        let interface = vm.vm.interfaces[0].clone();
        host.ports.insert(interface.port.clone().unwrap(), Port { policy: Arc::new(vm.clone()), interface });
    }
    table::tables(&host, Path::Routed, generation, &Moment::at(NOW))
}

/// All that is there, without the numbers that the kernel gives.
fn listing() -> String {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for counted in ["handle", "metainfo", "expires"] {
                    members.remove(counted);
                }
                members.values_mut().for_each(strip);
            }
            Value::Array(items) => {
                items.iter_mut().for_each(strip);
                items.sort_by_cached_key(|item| {
                    if item.get("rule").is_some() { String::new() } else { item.to_string() }
                });
            }
            _ => {}
        }
    }
    let mut value = Nft::with(&["nft"]).ask(&["list", "ruleset"]).unwrap();
    strip(&mut value);
    serde_json::to_string_pretty(&value).unwrap()
}

/// Whatever nft would do to these rules, done by nft and without it.
fn hold(spaces: &[Namespace; 2], old: &Tables, new: &Tables) -> Result<bool, TestCaseError> {
    let nft = Nft::with(&["nft"]);
    // Whether no step needed nft.
    let make = |change: Change, by_nft: bool| -> Result<bool, String> {
        let mut is_direct = true;
        for step in change.transactions() {
            match (!by_nft).then(|| Nft::commit_directly(&step)).flatten() {
                Some(done) => done.map_err(|error| error.to_string())?,
                None => {
                    is_direct = false;
                    nft.commit(&step).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(is_direct)
    };
    let [by_nft, directly] = [true, false].map(|by_nft| {
        spaces[usize::from(by_nft)].within(|| {
            make(install(old), true)?;
            let there = make(update(old, new), by_nft)?;
            let listed = listing();
            Ok::<_, String>((listed, there && make(update(new, old), by_nft)?))
        })
    });
    let (by_nft, (directly, was_direct)) = (
        by_nft.map_err(TestCaseError::fail)?.0,
        directly.map_err(|why| TestCaseError::fail(format!("directly: {why}\n{:#?}", update(old, new))))?,
    );
    prop_assert_eq!(by_nft, directly);
    Ok(was_direct)
}

#[test]
fn packets_changes_without_nft_are_what_nft_makes_of_them() {
    let spaces = [Namespace::new("a"), Namespace::new("b")];
    let menu = random::Menu { with_conditions: false };
    let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
    let cases = (random::policies(menu), random::policies(menu));
    let held = runner.run(&cases, |(old, new)| {
        let [old, new] = [(&old, 1), (&new, 2)].map(|(text, number)| tables(&random::resolve(text), number));
        let was_direct = hold(&spaces, &old, &new)?;
        prop_assert!(was_direct, "nothing of these policies needs nft");
        Ok(())
    });
    held.unwrap();
}

#[test]
fn packets_answers_without_nft_are_what_nft_makes_of_them_and_only_for_their_rules() {
    let policy = random::resolve(
        "[policy.p]\nselect='all()'\n[[policy.p.rule]]\ndirection='out'\naction='allow'\nprocess={uid=0}\n",
    );
    let space = Namespace::new("c");
    let answers: Vec<_> = [("10.0.1.2", "192.0.2.1", Lane::Tcp), ("fd00:1::2", "2001:db8::1", Lane::Udp)]
        .into_iter()
        .zip([Verdict::Allow, Verdict::Reject])
        .map(|((source, destination, lane), verdict)| {
            let end = |address: &str, port| (address.parse::<std::net::IpAddr>().unwrap(), port).into();
            let connection = Connection {
                direction: Direction::Out,
                lane,
                source: end(source, 40000),
                destination: end(destination, 443),
            };
            answer(Path::Routed, 7, &connection, verdict)
        })
        .collect();
    let nft = Nft::with(&["nft"]);
    let fill = |directly: bool, generation| {
        nft.apply(&install(&tables(&policy, generation)).whole()).unwrap();
        let done = answers.iter().all(|answer| match directly {
            true => Nft::commit_directly(answer).expect("an answer needs no nft").is_ok(),
            false => nft.commit(answer).is_ok(),
        });
        (done, listing())
    };
    space.within(|| {
        let (by_nft, directly) = (fill(false, 7), fill(true, 7));
        assert!(by_nft.0 && directly.1.contains("fd00:1::2"));
        assert_eq!(by_nft, directly);
        assert!(!fill(true, 8).0, "an answer for older rules is taken");
    });
}
