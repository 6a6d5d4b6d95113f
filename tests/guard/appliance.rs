//! The whole way on a real guest: a policy, an attack, the alert at a SIEM, the VM cut off, its memory kept, a person who releases it.

use crate::processes::{Desk, OUTSIDE};
use crate::world::{World, script};
use anyhow::{Context, Result, ensure};
use lynceus_lab::KernelVersion;
use lynceus_lab::attacks::ATTACKS;
use lynceus_lab::siem::{Authority, Rsyslog};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// An emulated guest on a busy machine takes its time. Nothing here fails because it is slow before that.
const PATIENCE: Duration = Duration::from_secs(180);

/// `lynceus run` on the host, with rsyslog over mutual TLS, an HTTP receiver and a file as its SIEM.
struct Site<'w> {
    world: &'w World,
    rsyslog: Rsyslog,
    receiver: Child,
    appliance: Child,
}

impl<'w> Site<'w> {
    fn start(world: &'w World, vm: &str) -> Result<Site<'w>> {
        let at = |name: &str| world.folder.path().join(name);
        let authority = Authority::new(world.folder.path(), "ca")?;
        let server = authority.sign("server", "127.0.0.1", false)?;
        let client = authority.sign("client", "lynceus-host", false)?;
        fs::create_dir(at("rsyslog"))?;
        let mut rsyslogd = Command::new("ip");
        rsyslogd.args(["netns", "exec", &world.ns("h"), "rsyslogd"]);
        let rsyslog = Rsyslog::start_by(rsyslogd, &at("rsyslog"), 0, Some((&authority, &server)))?;
        let (receiver, http) = collect(world, &at("http"))?;
        let shown = |path: &Path| path.display().to_string();
        let config = format!(
            "state = {:?}\npolicy = {:?}\ntrust = {:?}\n[vms]\nonly = [{vm:?}]\n[control]\nsocket = {:?}\n\
             [looks]\nprofiles = {:?}\nprocesses = \"500ms\"\nintegrity = \"1s\"\ncpu_percent = 100\nvm_cpu_percent = 100\n\
             [respond]\ndump = true\n[alerts]\nspool = {:?}\n\
             [[alerts.sinks]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"tls://127.0.0.1:{}\"\nformat = \"ecs\"\n\
             tls = {{ ca = {:?}, cert = {:?}, key = {:?} }}\n\
             [[alerts.sinks]]\nname = \"http\"\nkind = \"http\"\naddress = \"http://127.0.0.1:{http}/alerts\"\nformat = \"ocsf\"\n\
             [[alerts.sinks]]\nname = \"file\"\nkind = \"file\"\naddress = {:?}\n",
            shown(&at("state")),
            shown(&world.policy()),
            shown(&at("trust.toml")),
            shown(&at("socket")),
            shown(&at("profiles")),
            shown(&at("spool")),
            rsyslog.port,
            shown(&authority.ca),
            shown(&client.cert),
            shown(&client.key),
            shown(&at("alerts.json"))
        );
        fs::write(at("lynceus.toml"), config)?;
        let log = fs::File::create(at("log"))?;
        let mut run = world.command(&["run", "--config", &shown(&at("lynceus.toml"))]);
        let appliance = run.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Site { world, rsyslog, receiver, appliance })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.folder.path().join(name)
    }

    /// What reached the file, of a kind.
    fn alerts(&self, kind: &str) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.path("alerts.json")).unwrap_or_default();
        let all = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        Ok(all.into_iter().filter(|alert| alert["kind"] == kind).collect())
    }

    /// Waits for something, and tells what the appliance said where it does not come.
    fn until<T>(&self, what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        lynceus_lab::until(what, PATIENCE, ask)
            .with_context(|| fs::read_to_string(self.path("log")).unwrap_or_default())
    }

    fn response(&self, action: &str) -> Result<Value> {
        self.until(action, || {
            Ok(self.alerts("response")?.into_iter().find(|alert| alert["action"] == action))
        })
    }

    fn ask(&self, args: &[&str]) -> Result<Output> {
        let socket = self.path("socket").display().to_string();
        self.world.lynceus(&[args, &["--socket", &socket]].concat())
    }

    fn is_watched(&self) -> Result<Option<()>> {
        let output = self.ask(&["--json", "status"])?;
        let text = String::from_utf8(output.stdout)?;
        let Some(line) = text.lines().next() else { return Ok(None) };
        let status: Value = serde_json::from_str(line)?;
        Ok(status["vms"][0]["last_look_ms"].is_u64().then_some(()))
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        for child in [&mut self.appliance, &mut self.receiver] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An HTTP receiver in the host's namespace that keeps what is posted, and its port.
fn collect(world: &World, file: &Path) -> Result<(Child, u16)> {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &world.ns("h"), "python3"])
        .arg(script())
        .arg("collect")
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut port = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut port)?;
    Ok((child, port.trim().parse().context("the receiver tells no port")?))
}

#[test]
fn packets_stop_when_a_guest_is_attacked_and_flow_when_it_is_released() -> Result<()> {
    let world = World::new()?;
    let desk = Desk::boot(&world, KernelVersion::V6_1)?;
    let policy = "[policy.desk]\nvms=['desk']\ndefault={in='deny',out='allow'}\n\
        [policy.desk.look.respond]\nhigh='isolate'\n"
        .replace("'desk'", &format!("'{}'", desk.name));
    world.write(&format!("{}{policy}", desk.inventory()))?;
    let site = Site::start(&world, &desk.name)?;
    site.until("the first look", || site.is_watched())?;
    ensure!(
        desk.reaches("good", OUTSIDE, 1000)?,
        "the policy lets it out: {}",
        fs::read_to_string(site.path("log"))?
    );

    // Attacked: the alert at rsyslog, over mutual TLS, and at the HTTP receiver; the VM is cut off.
    let attack =
        ATTACKS.iter().find(|attack| attack.name == "handler of a system call").context("no such attack")?;
    desk.guest.attack(attack)?;
    let response = site.response("isolate")?;
    ensure!(response["vm"] == desk.name.as_str(), "{response:#}");
    let reason = response["decided_by"].as_str().unwrap_or_default();
    ensure!(reason.starts_with("policy, alert "), "{response:#}");
    let is_told =
        |text: String| Ok((text.contains(attack.detector) && text.contains(&desk.name)).then_some(text));
    let ecs = site.until("rsyslog", || is_told(site.rsyslog.received()))?;
    ensure!(ecs.contains("\"ecs\""), "{ecs}");
    let ocsf = site
        .until("the HTTP receiver", || is_told(fs::read_to_string(site.path("http")).unwrap_or_default()))?;
    ensure!(ocsf.contains("\"class_uid\":2004"), "{ocsf}");
    ensure!(!desk.reaches("good", OUTSIDE, 1000)?, "packets flow still");

    // What it tries now is told of, with who tried.
    let is_flow = |alert: &Value| {
        alert["verdict"] == "deny" && alert["destination"] == OUTSIDE && alert["vm"] == desk.name.as_str()
    };
    site.until("the flow", || Ok(site.alerts("flow")?.into_iter().find(is_flow)))?;

    // Its memory is kept, with what it takes to believe it.
    let dump = site.response("dump")?;
    let dump = PathBuf::from(
        dump["summary"]
            .as_str()
            .and_then(|text| text.split_whitespace().nth(1))
            .context("no file")?
            .trim_end_matches(','),
    );
    ensure!(dump.exists(), "{}", dump.display());
    let manifest: Value = serde_json::from_slice(&fs::read(format!("{}.manifest.json", dump.display()))?)?;
    let digest = Command::new("sha256sum").arg(&dump).output()?;
    let digest = String::from_utf8(digest.stdout)?;
    ensure!(manifest.to_string().contains(&digest[..64]), "{digest} is not in {manifest:#}");
    let seen = world.lynceus(&["check", &dump.display().to_string()])?;
    ensure!(
        String::from_utf8_lossy(&seen.stdout).contains(attack.detector),
        "the dump does not show it: {seen:?}"
    );

    // A person looks, and releases it: packets flow, and the same finding does not take it again.
    let listed = site.ask(&["respond", "list"])?;
    ensure!(String::from_utf8_lossy(&listed.stdout).contains("isolate"), "{listed:?}");
    let released = site.ask(&["respond", "release", &desk.name])?;
    ensure!(released.status.success(), "{released:?}");
    let response = site.response("release")?;
    ensure!(response["decided_by"].as_str().is_some_and(|who| who.starts_with("user 0")), "{response:#}");
    ensure!(desk.reaches("good", OUTSIDE, 1000)?, "packets do not flow again");
    let looks = || -> Result<Option<u64>> {
        let text = String::from_utf8(site.ask(&["--json", "status"])?.stdout)?;
        let status: Value = serde_json::from_str(text.lines().next().unwrap_or("null"))?;
        Ok(status["vms"][0]["looks"]["integrity"].as_u64())
    };
    let before = looks()?.context("no looks")?;
    site.until("more looks", || Ok(looks()?.filter(|looks| *looks > before + 2)))?;
    ensure!(desk.reaches("good", OUTSIDE, 1000)?, "the same finding isolates it again");
    ensure!(site.alerts("response")?.iter().filter(|alert| alert["action"] == "isolate").count() == 1);

    // A policy that is wrong changes nothing; the right one is taken at once.
    let written = |policy: &str| world.write(&format!("{}{policy}", desk.inventory()));
    written("[policy.desk]\ndefualt = {}\n")?;
    let refused = site.ask(&["reload"])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(2) && why.contains("did you mean `default`?"), "{why}");
    ensure!(desk.reaches("good", OUTSIDE, 1000)?, "a wrong policy changed something");
    written(&policy.replace("out='allow'", "out='deny'"))?;
    ensure!(site.ask(&["reload"])?.status.success());
    ensure!(!desk.reaches("good", OUTSIDE, 1000)?, "the new policy does not hold");
    Ok(())
}

/// Volatility 3 reads what is kept of an isolated VM.
#[test]
fn volatility_reads_what_lynceus_dump_keeps() -> Result<()> {
    use lynceus_lab::volatility::Volatility;
    use lynceus_lab::{Guest, Paging, Spec};
    let volatility = Volatility::install()?;
    let folder = tempfile::tempdir()?;
    let guest = Guest::boot(&Spec::everyday(KernelVersion::V6_1, Paging::Four))?;
    let (dump, symbols) = (folder.path().join("vm.avml"), folder.path().join("symbols/linux"));
    fs::create_dir_all(&symbols)?;
    let pid = format!("pid:{}", guest.pid());
    let lynceus = |args: &[&str]| -> Result<()> {
        let done = Command::new(env!("CARGO_BIN_EXE_lynceus"))
            .args(args)
            .env("LYNCEUS_PROFILES", folder.path().join("profiles"))
            .output()?;
        ensure!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    };
    lynceus(&["dump", &pid, &dump.display().to_string(), "--format", "avml", "--manifest"])?;
    lynceus(&["profile", "build", &pid, &symbols.join("guest.json").display().to_string()])?;
    let rows = volatility.run("linux.pslist.PsList", &dump, &folder.path().join("symbols"))?;
    ensure!(rows.iter().any(|row| row["PID"] == 1), "{rows:#?}");
    Ok(())
}
