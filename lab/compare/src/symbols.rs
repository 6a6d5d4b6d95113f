//! Every symbol of the kernel and of its modules against the guest's `/proc/kallsyms`.
//!
//! Left out: what the kernel makes up while it runs and no table of it holds (`[bpf]`, `[__builtin__kprobes]`, …), and the
//! capital letter of a module's exported symbols, which `/proc/kallsyms` takes from another table.

use crate::report::Report;
use anyhow::{Result, ensure};
use lynceus_introspect::linux::LinuxGuest;
use lynceus_lab::truth::Symbol;

/// Holds every symbol of the kernel and its modules against `/proc/kallsyms`: how many are equal, or the first differences.
pub fn hold(guest: &LinuxGuest, told: &[Symbol]) -> Result<usize> {
    let (mut report, kernel, view) = (Report::default(), guest.kernel(), guest.view());
    let made_up = |module: &Option<String>| {
        module.as_ref().is_some_and(|module| module == "bpf" || module.starts_with("__builtin__"))
    };
    let told = told.iter().filter(|symbol| !made_up(&symbol.module));
    let (modules, image): (Vec<&Symbol>, Vec<&Symbol>) = told.partition(|symbol| symbol.module.is_some());
    let theirs = image.iter().map(|symbol| format!("{:x} {} {}", symbol.address, symbol.kind, symbol.name));
    let ours = kernel.profile.symbols.iter().map(|symbol| {
        format!("{:x} {} {}", kernel.slid(symbol.address).0, char::from(symbol.kind), symbol.name)
    });
    report.compare("symbol", theirs.collect(), ours.collect());

    let of_module = |module: &str, address, kind: char, name: &str| {
        format!("{module} {address:x} {} {name}", kind.to_ascii_lowercase())
    };
    let theirs = modules.iter().map(|symbol| {
        of_module(symbol.module.as_deref().unwrap_or_default(), symbol.address, symbol.kind, &symbol.name)
    });
    let mut ours = Vec::new();
    for module in report.whole("modules", view.modules()) {
        let symbols = report.whole("module symbols", view.module_symbols(&module));
        ours.extend(symbols.iter().map(|it| of_module(&module.name, it.at.0, it.kind, &it.name)));
    }
    report.compare("module symbol", theirs.collect(), ours);
    let count = report.differences.len();
    report.differences.truncate(50);
    ensure!(count == 0, "{count} differences:\n{}", report.differences.join("\n"));
    Ok(report.equal)
}
