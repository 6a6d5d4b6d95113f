//! The policy commands from outside, on the policies that are shipped: exit codes, places, field names that others build on.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/policies").join(name)
}

fn lynceus(folder: &Path, args: &[&str]) -> Result<(Option<i32>, String, String)> {
    let state = tempfile::tempdir()?;
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_lynceus"))
        .args(args)
        .env("LYNCEUS_POLICY", folder)
        .env("LYNCEUS_STATE", state.path())
        .output()?;
    Ok((status.code(), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
}

fn lines(text: &str) -> Result<Vec<Value>> {
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// A folder with one file.
fn folder(text: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("p.toml"), text)?;
    Ok(folder)
}

const TWO: &str = "[vm.a]\n[[vm.a.interface]]\nmac='52:54:00:00:00:01'\naddresses=['10.0.0.1']\n\
[vm.b]\n[[vm.b.interface]]\nmac='52:54:00:00:00:02'\naddresses=['10.0.0.2']\n\
[policy.all]\nselect='all()'\ndefault={in='deny',out='allow'}\n";

#[test]
fn the_shipped_policies_are_clean_and_pass_their_tests() -> Result<()> {
    for (name, tests) in [("desktop", 23), ("site", 9)] {
        let (code, said, error) = lynceus(&shipped(name), &["policy", "lint"])?;
        ensure!(code == Some(0), "{name}: {said}{error}");
        let (code, said, error) = lynceus(&shipped(name), &["--json", "policy", "test"])?;
        ensure!(code == Some(0), "{name}: {said}{error}");
        let rows = lines(&said)?;
        ensure!(rows.len() == tests && rows.iter().all(|row| row["passed"] == true), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn a_test_that_fails_names_the_rule_that_decided() -> Result<()> {
    let folder = folder(&format!(
        "{TWO}[[policy.all.rule]]\nname='web'\ndirection='in'\naction='reject'\nservices=['tcp/80']\n\
         [[test]]\nfrom='a'\nto='b'\nservice='tcp/80'\nexpect='allow'\n"
    ))?;
    let (code, said, error) = lynceus(folder.path(), &["policy", "test"])?;
    ensure!(code == Some(1), "{said}{error}");
    ensure!(
        said.contains("10.0.0.1 → 10.0.0.2 tcp/80 is reject by b in: rule all/web (p.toml:12:1)"),
        "{said}"
    );
    Ok(())
}

#[test]
fn lint_finds_what_does_nothing_and_what_is_not_done() -> Result<()> {
    let folder = folder(&format!(
        "{TWO}[[policy.all.rule]]\nname='one'\ndirection='in'\naction='allow'\nservices=['tcp/1-40']\n\
         [[policy.all.rule]]\nname='two'\ndirection='in'\naction='allow'\nservices=['tcp/41-99']\n\
         [[policy.all.rule]]\nname='both'\ndirection='in'\naction='deny'\nservices=['tcp/22-80']\n\
         [[policy.all.rule]]\nname='same'\ndirection='in'\naction='allow'\nservices=['tcp/5']\n\
         [[policy.all.rule]]\nname='old'\ndirection='out'\naction='deny'\nexpires=2020-01-01\n\
         [[policy.all.rule]]\nname='fox'\ndirection='out'\naction='allow'\nprocess={{exe='/usr/bin/firefox'}}\nrate='1/second'\n\
         [[policy.all.rule]]\nname='dns'\ndirection='out'\naction='deny'\npeer={{names=['deb.debian.org']}}\n\
         [site]\nmanagement={{addresses=['192.0.2.0/24'],services=['udp/22']}}\n"
    ))?;
    let (code, said, _) = lynceus(folder.path(), &["--json", "policy", "lint"])?;
    ensure!(code == Some(1));
    let rows = lines(&said)?;
    let of = |code: &str| {
        rows.iter().find(|row| row["code"] == code).with_context(|| format!("no {code} in {said}"))
    };
    let shadowed = of("shadowed")?["message"].as_str().context("text")?.to_owned();
    ensure!(
        shadowed.contains("all/both") && shadowed.contains("all/one") && shadowed.contains("all/two"),
        "{shadowed}"
    );
    ensure!(of("redundant")?["message"].as_str().is_some_and(|text| text.contains("all/same")));
    ensure!(of("expired")?["place"]["line"] == 32, "{said}");
    ensure!(of("process-with-rate")?["level"] == "error");
    of("denied-by-name")?;
    of("no-management")?;
    Ok(())
}

#[test]
fn a_wrong_policy_is_an_error_with_its_place() -> Result<()> {
    let folder = folder("[policy.a]\nselct = 'all()'\n")?;
    for command in ["lint", "test", "plan", "apply"] {
        let (code, _, error) = lynceus(folder.path(), &["policy", command])?;
        ensure!(code == Some(2) && error.contains("p.toml:2:1: unknown field `selct`"), "{command}: {error}");
        ensure!(error.contains("did you mean `select`?"), "{command}: {error}");
    }
    let (_, _, error) = lynceus(folder.path(), &["--json", "policy", "lint"])?;
    let line: Value = serde_json::from_str(error.lines().next().context("no line")?)?;
    ensure!(
        (&line["file"], &line["line"], &line["column"]) == (&"p.toml".into(), &2.into(), &1.into()),
        "{line}"
    );
    Ok(())
}

#[test]
fn explain_tells_each_rule_that_was_asked() -> Result<()> {
    let args = ["--json", "policy", "explain", "browser", "192.168.1.1", "tcp", "80"];
    let (code, said, error) = lynceus(&shipped("desktop"), &args)?;
    ensure!(code == Some(0), "{error}");
    let flow = lines(&said)?.pop().context("no flow")?;
    ensure!(flow["verdict"] == "reject", "{flow}");
    let steps = flow["judged"][0]["steps"].as_array().context("no steps")?;
    let told: Vec<_> = steps.iter().map(|step| (step["rule"].as_str(), step["outcome"].as_str())).collect();
    let expected = [
        (Some("base/no-smb"), Some("no: another service")),
        (Some("browser/web"), Some("no: another peer")),
        (Some("browser/no-lan"), Some("matches: reject")),
    ];
    ensure!(told == expected, "{told:?}");
    let (code, _, error) =
        lynceus(&shipped("desktop"), &["policy", "explain", "browsr", "1.1.1.1", "tcp/80"])?;
    ensure!(code == Some(2) && error.contains("browsr"), "{error}");
    Ok(())
}

#[test]
fn show_and_schema_are_for_programs_too() -> Result<()> {
    let (code, said, _) = lynceus(&shipped("site"), &["--json", "policy", "show", "db-1"])?;
    let policy: lynceus_policy::VmPolicy = serde_json::from_str(&said)?;
    ensure!(code == Some(0) && policy.vm.name == "db-1" && policy.format == lynceus_policy::FORMAT);
    let (_, said, _) = lynceus(&shipped("site"), &["policy", "show", "db-1"])?;
    ensure!(said.contains("default in: deny (policy platform)"), "{said}");
    let (code, said, _) = lynceus(&shipped("site"), &["policy", "schema"])?;
    ensure!(code == Some(0) && serde_json::from_str::<Value>(&said)?["properties"]["policy"].is_object());
    Ok(())
}

#[test]
fn plan_says_what_packets_would_meet_and_what_flows_would_drop() -> Result<()> {
    // Nothing is enforced: everything that the policy allows is new.
    let folder = folder(&format!(
        "{TWO}[[policy.all.rule]]\ndirection='in'\naction='allow'\nservices=['tcp/80-90']\npeer={{addresses=['10.0.0.0/8']}}\n"
    ))?;
    let (code, said, error) = lynceus(folder.path(), &["--json", "policy", "plan"])?;
    ensure!(code == Some(0), "{error}");
    let rows = lines(&said)?;
    let inbound =
        rows.iter().find(|row| row["vm"] == "a" && row["direction"] == "in").context("no change of a")?;
    ensure!(inbound["peers"] == "10.0.0.0/8" && inbound["services"] == "tcp/80-90", "{inbound}");
    ensure!(inbound["was"] == "deny" && inbound["becomes"] == "allow", "{inbound}");
    let flows = folder.path().join("flows.jsonl");
    std::fs::write(
        &flows,
        "{\"source\":\"10.0.0.1\",\"destination\":\"10.0.0.2\",\"service\":\"tcp/443\"}\n",
    )?;
    let flows = flows.to_str().context("a path")?;
    let (code, said, _) = lynceus(folder.path(), &["--json", "policy", "plan", "--flows", flows])?;
    // No VM was known before, so that nothing judged the flow.
    ensure!(code == Some(1) && said.contains("\"newly_dropped\":1"), "{said}");
    Ok(())
}
