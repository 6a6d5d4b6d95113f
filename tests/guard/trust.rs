//! Signed policies. The bundles and signatures are minisign's own; who made them is in `tests/guard/bundles/README.md`.

use crate::world::World;
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

fn bundle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guard/bundles").join(name)
}

/// The second line of minisign's file.
fn public(name: &str) -> Result<String> {
    let text = std::fs::read_to_string(bundle(name))?;
    Ok(text.lines().nth(1).unwrap_or_default().to_owned())
}

#[test]
fn packets_meet_signed_policies_only_and_never_older_ones() -> Result<()> {
    let world = World::new()?;
    let trust = world.folder.path().join("trust.toml");
    let text = format!(
        "require_signature = true\n[[key]]\nname = 'platform'\npublic = '{}'\ntiers = ['platform', 'team', 'vm']\n\
         [[key]]\nname = 'owner'\npublic = '{}'\ntiers = ['vm']\n",
        public("platform.pub")?,
        public("owner.pub")?
    );
    std::fs::write(&trust, text)?;
    let apply = |path: &Path, code: i32| {
        let (path, trust) = (path.display().to_string(), trust.display().to_string());
        world.expect(&["policy", "apply", "--policy", &path, "--trust", &trust], code)
    };
    world.write("[policy.open]\nselect='all()'")?;
    ensure!(apply(&world.policy(), 2)?.contains("signatures are required"), "a folder is applied");
    apply(&bundle("5-platform.bundle"), 0)?;
    apply(&bundle("6-owner.bundle"), 0)?;
    let said = apply(&bundle("5-platform.bundle"), 2)?;
    ensure!(said.contains("serial number is 5, and 6"), "{said}");
    let said = apply(&bundle("7-owner-platform.bundle"), 2)?;
    ensure!(said.contains("the key of owner may not change the tier platform"), "{said}");

    let copy = world.folder.path().join("copy.bundle");
    let signature = world.folder.path().join("copy.bundle.minisig");
    std::fs::copy(bundle("6-owner.bundle"), &copy)?;
    ensure!(apply(&copy, 2)?.contains("signatures are required"), "an unsigned bundle is applied");
    std::fs::copy(bundle("6-owner.bundle.minisig"), &signature)?;
    apply(&copy, 0)?;
    let altered = std::fs::read_to_string(&copy)?.replace("tcp/1001", "tcp/1000");
    std::fs::write(&copy, altered)?;
    ensure!(
        apply(&copy, 2)?.contains("no trusted key has signed exactly this"),
        "an altered bundle is applied"
    );
    std::fs::copy(bundle("8-stranger.bundle"), &copy)?;
    std::fs::copy(bundle("8-stranger.bundle.minisig"), &signature)?;
    ensure!(apply(&copy, 2)?.contains("no trusted key"), "a stranger's bundle is applied");
    std::fs::write(&signature, "garbage")?;
    ensure!(apply(&copy, 2)?.contains("no trusted key"), "garbage is a signature");
    world.expect(&["firewall", "status"], 0)?;
    Ok(())
}
