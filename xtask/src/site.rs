//! The demo's second half: the appliance guards a VM, sees it attacked, tells a SIEM, cuts it off, and a person releases it.

use crate::demo::{profiles, say};
use crate::shell::{program, run};
use anyhow::{Context, Result, ensure};
use lynceus_lab::attacks::ATTACKS;
use lynceus_lab::guest::Card;
use lynceus_lab::siem::Rsyslog;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The VM's name.
const VM: &str = "desk-1";
const MAC: &str = "52:54:00:00:00:08";
/// Somebody out there.
const OUTSIDE: &str = "192.0.2.1";
/// Where somebody answers.
const PORT: &str = "1000";
/// What is waited for comes within this time.
const PATIENCE: Duration = Duration::from_secs(180);

/// A host of its own: a network namespace with the VM's tap, and another one for the world outside.
struct Host {
    name: String,
    folder: tempfile::TempDir,
    running: Vec<Child>,
}

impl Host {
    fn new() -> Result<Host> {
        let name = format!("lynceus-demo-{}", std::process::id());
        let mut host = Host { name, folder: tempfile::tempdir()?, running: Vec::new() };
        let (here, there) = (host.name.clone(), host.outside());
        sh(&format!(
            "ip netns add {here}; ip netns add {there}
             ip -n {here} link set lo up
             ip -n {here} link add out type veth peer name eth0 netns {there}
             ip -n {here} link set out up; ip -n {there} link set eth0 up
             ip -n {here} addr add 192.0.2.254/24 dev out; ip -n {there} addr add {OUTSIDE}/24 dev eth0
             ip -n {there} route add default via 192.0.2.254
             ip netns exec {here} ip tuntap add tap8 mode tap
             ip -n {here} link set tap8 up; ip -n {here} addr add 10.0.8.1/24 dev tap8
             ip netns exec {here} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'"
        ))?;
        let mut server = Command::new("ip");
        server.args(["netns", "exec", &there, "busybox", "nc", "-ll", "-p", PORT, "-e", "/bin/cat"]);
        host.running.push(server.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        Ok(host)
    }

    fn outside(&self) -> String {
        format!("{}-out", self.name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program in the host's namespace.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program).env("LYNCEUS_SOCKET", self.path("socket"));
        command
    }

    /// Runs `lynceus` and shows what it says.
    fn lynceus(&self, args: &[&str]) -> Result<()> {
        println!("   $ lynceus {}", args.join(" "));
        // Exit code 1 says that there are findings.
        let status = self.command(&program()).args(args).status()?;
        ensure!(matches!(status.code(), Some(0 | 1)), "lynceus {}: {status}", args.join(" "));
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in [self.name.clone(), self.outside()] {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

/// Shows it. Needs root, and says so without.
pub(crate) fn show() -> Result<()> {
    if Command::new("id").arg("-u").output()?.stdout != b"0\n" {
        say("SKIPPED: the appliance, which guards a VM's network: namespaces and nftables need root.");
        return Ok(());
    }
    say("Now the appliance: one daemon that watches and guards. A VM on a tap, a policy, a SIEM (rsyslog).");
    let mut host = Host::new()?;
    fs::create_dir(host.path("rsyslog"))?;
    let rsyslogd = host.command(Path::new("rsyslogd"));
    let rsyslog = Rsyslog::start_by(rsyslogd, &host.path("rsyslog"), 0, None)?;
    let card = Card { tap: "tap8".to_owned(), namespace: host.name.clone(), mac: MAC.to_owned() };
    let spec =
        Spec { name: VM.to_owned(), card: Some(card), ..Spec::everyday(KernelVersion::V6_1, Paging::Four) };
    let guest = Guest::boot(&spec)?;
    guest.run(
        "ip link set eth0 up && ip addr add 10.0.8.2/24 dev eth0 && ip route add 192.0.2.1 via 10.0.8.1",
    )?;
    configure(&host, rsyslog.port)?;
    println!("{}", indented(&fs::read_to_string(host.path("policy/desk.toml"))?));
    let log = fs::File::create(host.path("log"))?;
    let mut appliance = host.command(&program());
    appliance.args(["run", "--config"]).arg(host.path("lynceus.toml")).stdin(Stdio::null());
    host.running.push(appliance.stdout(log.try_clone()?).stderr(log).spawn()?);
    until(&host, "the appliance watches the VM", || {
        let status = host.command(&program()).args(["--json", "status"]).output()?;
        Ok(String::from_utf8_lossy(&status.stdout).contains("\"state\":\"watched\""))
    })?;
    host.lynceus(&["status"])?;
    until(&host, "the VM reaches somebody", || reaches(&guest))?;
    println!("   the VM reaches {OUTSIDE}: {}", reaches(&guest)?);

    say("An attacker in the VM redirects a system call.");
    let attack =
        ATTACKS.iter().find(|attack| attack.name == "handler of a system call").context("no such attack")?;
    let started = Instant::now();
    guest.attack(attack)?;
    until(&host, "the alert is at the SIEM", || Ok(rsyslog.received().contains(attack.detector)))?;
    println!(
        "   the SIEM has it {:.1} s after the attack began (ECS, over syslog):",
        started.elapsed().as_secs_f32()
    );
    let received = rsyslog.received();
    let line = received.lines().find(|line| line.contains(attack.detector)).unwrap_or_default();
    println!("   {}…", line.chars().take(400).collect::<String>());
    until(&host, "the VM is cut off", || Ok(!reaches(&guest)?))?;
    println!("   the VM reaches {OUTSIDE}: {}", reaches(&guest)?);
    host.lynceus(&["respond", "list"])?;
    say("What does that mean?");
    host.lynceus(&["explain", attack.detector])?;
    say("A person has looked, and releases it.");
    host.lynceus(&["respond", "release", VM])?;
    until(&host, "the VM is back", || reaches(&guest))?;
    println!("   the VM reaches {OUTSIDE}: {}", reaches(&guest)?);
    Ok(())
}

fn configure(host: &Host, syslog: u16) -> Result<()> {
    fs::create_dir(host.path("policy"))?;
    let policy = format!(
        "[vm.{VM}]\n[[vm.{VM}.interface]]\nport = \"tap8\"\nmac = \"{MAC}\"\naddresses = [\"10.0.8.2\"]\n\n\
         [policy.desk]\nvms = [\"{VM}\"]\ndefault = {{ in = \"deny\", out = \"allow\" }}\n\
         [policy.desk.look.respond]\nhigh = \"isolate\"\n"
    );
    fs::write(host.path("policy/desk.toml"), policy)?;
    let config = format!(
        "state = {:?}\npolicy = {:?}\n[vms]\nonly = [\"{VM}\"]\n[control]\nsocket = {:?}\n\
         [looks]\nprofiles = {:?}\nprocesses = \"1s\"\nintegrity = \"2s\"\ncpu_percent = 100\nvm_cpu_percent = 100\n\
         [alerts]\nspool = {:?}\n[[alerts.sinks]]\nname = \"siem\"\nkind = \"syslog\"\nformat = \"ecs\"\n\
         address = \"tcp://127.0.0.1:{syslog}\"\n",
        host.path("state"),
        host.path("policy"),
        host.path("socket"),
        profiles(),
        host.path("spool")
    );
    Ok(fs::write(host.path("lynceus.toml"), config)?)
}

/// Whether the VM gets an answer from outside.
fn reaches(guest: &Guest) -> Result<bool> {
    Ok(guest.run(&format!("echo hello | busybox nc -w 3 {OUTSIDE} {PORT} || true"))?.contains("hello"))
}

fn until(host: &Host, what: &str, is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    lynceus_lab::until_so(what, PATIENCE, is_so)
        .with_context(|| fs::read_to_string(host.path("log")).unwrap_or_default())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   │ {line}")).collect::<Vec<_>>().join("\n")
}

fn sh(script: &str) -> Result<()> {
    run(Command::new("sh").args(["-ec", script]))
}
