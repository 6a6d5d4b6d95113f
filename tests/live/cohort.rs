//! Three guests of the same kernel, each booted for itself: none differs, until one is attacked; then that one is named.

use anyhow::{Context, Result, ensure};
use lynceus_introspect::find::{self, Attached};
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::target::Target;
use lynceus_lab::attacks::ATTACKS;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use lynceus_scanners::{Finding, cohort};

/// What each of them has otherwise than most.
fn compared(attached: &[Attached]) -> Result<Vec<Vec<Finding>>> {
    let guests: Vec<&LinuxGuest> = attached.iter().map(|attached| &attached.guest).collect();
    let cohorts = cohort::cohorts(&guests);
    ensure!(cohorts.len() == 1 && cohorts[0].members == [0, 1, 2], "{cohorts:?}");
    let found = cohort::compare(&guests);
    for member in &found {
        ensure!(member.is_complete(), "{:?}", member.gaps);
    }
    Ok(found.into_iter().map(|member| member.items).collect())
}

fn the_one_that_is_attacked_is_named(kernel: KernelVersion) -> Result<()> {
    let boot = |_| Guest::boot(&Spec::everyday(kernel, Paging::Four));
    let guests: Vec<Guest> = (0..3).map(boot).collect::<Result<_>>()?;
    let attach = |guest: &Guest| -> Result<Attached> {
        Ok(find::attach_target(&Target::open(&format!("pid:{}", guest.pid()))?, None)?)
    };
    let attached: Vec<Attached> = guests.iter().map(attach).collect::<Result<_>>()?;
    let slides: Vec<u64> = attached.iter().map(|attached| attached.guest.kernel().slide).collect();
    println!("slides: {slides:x?}");
    for found in compared(&attached)? {
        ensure!(found.is_empty(), "clean guests differ: {found:#?}");
    }
    for (name, symbol) in [
        ("byte inside of a function", "__x64_sys_kexec_load"),
        ("jump at the start of a function", "__x64_sys_kexec_load"),
        ("listing of sockets", "tcp4_seq_ops"),
        ("handler of a system call", "sys_call_table"),
        ("sight of terminals", "n_tty_ops"),
    ] {
        let attack = ATTACKS.iter().find(|attack| attack.name == name).context("no such attack")?;
        guests[1].attack(attack)?;
        let found = compared(&attached)?;
        ensure!(found[0].is_empty() && found[2].is_empty(), "{name}: {found:#?}");
        // The module that attacks is in that guest alone as well.
        let names = |text: &str| found[1].iter().any(|finding| finding.summary.contains(text));
        ensure!(
            found[1].len() == 2 && names(symbol) && names("module lynceus_lab_attack"),
            "{name}: {found:#?}"
        );
        guests[1].cease(attack)?;
    }
    for found in compared(&attached)? {
        ensure!(found.is_empty(), "afterwards: {found:#?}");
    }
    Ok(())
}

#[test]
fn on_5_10() -> Result<()> {
    the_one_that_is_attacked_is_named(KernelVersion::V5_10)
}

#[test]
fn on_6_12() -> Result<()> {
    the_one_that_is_attacked_is_named(KernelVersion::V6_12)
}
