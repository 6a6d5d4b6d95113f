//! `firewall status` says what it knows, and why it knows no more.

use crate::world::World;
use anyhow::{Result, ensure};

#[test]
fn what_was_changed_without_nft_is_not_blamed_on_too_many_rules() -> Result<()> {
    let world = World::new()?;
    let policy = |port: u16| {
        format!(
            "[policy.open]\nselect='all()'\ndefault={{in='allow',out='allow'}}\n[[policy.open.rule]]\ndirection='in'\naction='deny'\nservices=['tcp/{port}']\n"
        )
    };
    world.apply(&policy(1000))?;
    world.expect(&["firewall", "status"], 0)?;
    // A small change goes to the kernel in messages of our own: nft may be gone.
    world.write(&policy(1001))?;
    let empty = world.folder.path().join("empty");
    std::fs::create_dir(&empty)?;
    world.host(&format!(
        "LYNCEUS_POLICY={} LYNCEUS_STATE={} PATH={} {} policy apply",
        world.policy().display(),
        world.folder.path().join("state").display(),
        empty.display(),
        env!("CARGO_BIN_EXE_lynceus")
    ))?;
    let said = world.expect(&["firewall", "status"], 3)?;
    ensure!(said.contains("nft could not list the rules") && !said.contains("too many"), "{said}");
    world.expect(&["firewall", "restore"], 0)?;
    world.expect(&["firewall", "status"], 0)?;
    Ok(())
}

/// Rules are about addresses: two VMs with the same one could not be told apart by their peers, whatever bridge they are on.
#[test]
fn two_vms_with_one_address_are_refused_and_nothing_changes() -> Result<()> {
    let world = World::new()?;
    world.apply("[policy.open]\nselect='all()'\n")?;
    let twin =
        "[vm.twin]\n[[vm.twin.interface]]\nport='tap9'\nmac='52:54:00:00:00:99'\naddresses=['10.0.1.2']\n";
    world.write(&format!("{twin}[policy.open]\nselect='all()'\n"))?;
    let said = world.expect(&["policy", "apply"], 2)?;
    ensure!(said.contains("policy.toml:2:") && said.contains("10.0.1.2"), "{said}");
    ensure!(said.contains("is that of VM `"), "{said}");
    let status = world.expect(&["firewall", "status"], 0)?;
    ensure!(!status.contains("twin") && status.contains("generation 1"), "{status}");
    Ok(())
}
