//! Signature scans: how near they come to the engines' own speed, and what the second one costs.

use super::goals::{Goal, Limit, figure};
use super::report::{goals_of, short};
use super::{measure, peers};
use crate::shell::cargo;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Nanoseconds and counts by their names.
pub(crate) type Scans = Result<BTreeMap<String, f64>, String>;

/// What the benchmark of the scanners prints about an image.
pub(crate) fn measure(ram: &Path) -> Scans {
    println!("signature scans");
    let bench =
        ["bench", "--quiet", "--package", "lynceus-scanners", "--features", "libyara", "--bench", "scan"];
    let (text, _) = measure::output(cargo(&bench).env("LYNCEUS_BENCH_IMAGE", ram))
        .map_err(|why| format!("cargo bench of lynceus-scanners: {why}"))?;
    Ok(peers::figures(&String::from_utf8_lossy(&text)))
}

fn goals(scans: &Scans) -> Vec<Goal> {
    let get = |name: &str| figure(scans.as_ref().map_err(Clone::clone)?, name);
    let goal = |what, limit, value: Result<f64, String>| Goal { what, limit, values: vec![value] };
    let over = |one: &str, other: &str| Ok(get(one)? / get(other)?);
    let full = "full scan";
    let rescan = |scope: &str, how: &str| {
        over(&format!("{scope}full scan"), &format!("{scope}rescan, one page in 100 changed, {how}"))
    };
    let part = || Ok(get("cache bytes")? / get("scanned bytes")? * 100.0);
    vec![
        goal(
            "scan without a cache, as a part of boreal's speed on the same bytes in one buffer",
            Limit::Times(0.8),
            over("boreal, flat buffer", "scan without a cache"),
        ),
        goal(
            "full scan, faster than libyara on that buffer",
            Limit::Times(4.0),
            over("libyara, flat buffer", full),
        ),
        goal("two cores, faster than one", Limit::Times(1.7), over(full, "full scan, two threads")),
        goal(
            "rescan after 1 % of pages changed, in clusters, in processes' own memory",
            Limit::Times(20.0),
            rescan("", "clustered"),
        ),
        goal("the same, anywhere, in files too", Limit::Times(20.0), rescan("", "anywhere")),
        goal(
            "all RAM: rescan after 1 % of pages changed, in clusters",
            Limit::Times(20.0),
            rescan("all RAM, ", "clustered"),
        ),
        goal("the same, anywhere", Limit::Times(20.0), rescan("all RAM, ", "anywhere")),
        goal(
            "ten clones, 1 % of whose pages differ, in the time of one",
            Limit::AtMost(1.5, "×"),
            over("ten clones", "one guest"),
        ),
        goal("cache, as a part of what was scanned", Limit::AtMost(1.0, "%"), part()),
    ]
}

/// The section of the report.
pub(crate) fn markdown(scans: &Scans) -> String {
    let mut out = goals_of("Signature scans", &goals(scans));
    for (name, value) in scans.iter().flatten() {
        let is_count = ["rules", "libyara, files refused"].contains(&name.as_str());
        let value = if is_count {
            short(*value)
        } else if name.contains("bytes") {
            format!("{} MB", short(value / 1e6))
        } else {
            format!("{} ms", short(value / 1e6))
        };
        let _ = writeln!(out, "| {name} | {value} |");
    }
    out.push_str(METHOD);
    out
}

const METHOD: &str = "
The lab's guest with kernel 6.12 and 512 MB, mapped; processes, cached files and the kernel, and then all RAM. A *full scan* is the first one of a guest, on
one thread unless it says another number: it searches equal pages once, however many processes map them; *without a cache* all bytes are scanned, as the engines do
with the flat buffer, which holds each region's bytes. The fastest of 27 rounds, because what else runs on the machine only ever makes
a round slower; what is compared takes nine turns of three. 5,000 rules of three strings each, made from pieces of the guest's own memory with one byte changed: the engine has less to
check than with rules from the field, which must not be copied here; `LYNCEUS_BENCH_RULES` names a folder of others.
*In clusters*: eight neighbouring pages of memory that processes may write to, and so on
until 1 % of all pages that are scanned have changed. *Anywhere*: single pages, in programs, cached files and the kernel's text too,
as no guest does.
";
