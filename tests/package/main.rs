//! The Debian package: it installs, upgrades and goes, leaves an admin's configuration alone, its service file is one, and on a Debian with its own systemd the
//! service does what it should.

mod debian;
mod groups;
mod host;

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn done(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {told}");
    Ok(output)
}

/// The package of the program that is tested.
fn pack(folder: &Path, version: &str) -> Result<PathBuf> {
    let out = folder.join(format!("{version}.deb"));
    lynceus_lab::deb::pack(Path::new(env!("CARGO_BIN_EXE_lynceus")), version, &out)?;
    Ok(out)
}

/// dpkg, in a root folder of its own: nothing of this machine changes.
fn dpkg(root: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new("dpkg");
    command.arg(format!("--root={}", root.display())).args([
        "--force-depends",
        "--force-script-chrootless",
        "--force-not-root",
    ]);
    done(command.arg(format!("--log={}/log", root.display())).args(args))
}

#[test]
fn it_installs_upgrades_and_goes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("var/lib/dpkg/info"))?;
    fs::create_dir_all(root.join("var/lib/dpkg/updates"))?;
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    fs::write(root.join("var/lib/dpkg/available"), "")?;
    let (first, second) = (pack(folder.path(), "0.1.0")?, pack(folder.path(), "0.2.0")?);

    dpkg(&root, &["--install", &first.display().to_string()])?;
    let program = root.join("usr/bin/lynceus");
    ensure!(
        String::from_utf8(done(Command::new(&program).arg("--version"))?.stdout)?.starts_with("lynceus ")
    );
    let config = root.join("etc/lynceus/lynceus.toml");
    done(Command::new(&program).args(["config", "check", "--config"]).arg(&config))?;
    for file in [
        "lib/systemd/system/lynceus.service",
        "usr/share/man/man1/lynceus.1.gz",
        "usr/share/man/man1/lynceus-run.1.gz",
        "usr/share/bash-completion/completions/lynceus",
        "usr/share/doc/lynceus/examples/policies/desktop",
    ] {
        ensure!(root.join(file).exists(), "{file} is missing");
    }

    // What an admin changed stays, over an upgrade and a removal; a purge takes it.
    fs::write(&config, "# mine\n")?;
    fs::create_dir_all(root.join("var/lib/lynceus"))?;
    fs::create_dir_all(root.join("var/log/lynceus"))?;
    dpkg(&root, &["--install", &second.display().to_string()])?;
    ensure!(fs::read_to_string(&config)? == "# mine\n");
    let version = dpkg(&root, &["--status", "lynceus"])?;
    ensure!(String::from_utf8(version.stdout)?.contains("Version: 0.2.0"));
    dpkg(&root, &["--remove", "lynceus"])?;
    ensure!(!program.exists() && config.exists());
    dpkg(&root, &["--purge", "lynceus"])?;
    for gone in ["etc/lynceus", "var/lib/lynceus", "var/log/lynceus"] {
        ensure!(!root.join(gone).exists(), "{gone} is left");
    }
    Ok(())
}

/// Every line of the service is one that systemd knows, where it is there to be asked; and its program is the package's.
#[test]
fn the_service_is_one() -> Result<()> {
    let service = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/lynceus.service");
    let text = fs::read_to_string(&service)?;
    ensure!(
        text.contains("ExecStart=/usr/bin/lynceus run")
            && text.contains("ExecReload=/usr/bin/lynceus reload")
    );
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&service).output();
    let verified = verified.context("systemd-analyze is missing: apt-get install systemd")?;
    let told = String::from_utf8_lossy(&verified.stderr).into_owned();
    // That the program is not installed on this machine is no error of the file.
    let wrong: Vec<&str> = told
        .lines()
        .filter(|line| !line.contains("not executable") && line.contains("lynceus.service"))
        .collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
