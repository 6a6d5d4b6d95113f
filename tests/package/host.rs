//! A Debian in a guest that plays the host of two VMs, as a person at its console sees it.

use crate::pack;
use anyhow::{Context, Result, ensure};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec, images};
use serde_json::Value;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

/// Emulation on a busy machine takes its time. Nothing here fails because it is slow before that.
const PATIENCE: Duration = Duration::from_secs(300);
/// A look at each start: more would leave an emulated machine no time for anything else.
pub(crate) const CONFIG: &str = r#"
policy = "/etc/lynceus/policy"
[vms]
dumps = ["/luggage/victim.raw"]
[looks]
profiles = "/var/lib/lynceus/profiles"
processes = "1h"
integrity = "1h"
cpu_percent = 100
vm_cpu_percent = 100
[[alerts.sinks]]
name = "journal"
kind = "journald"
"#;
/// Two VMs that may reach each other at one port.
pub(crate) const POLICY: &str = r#"
[vm.a]
[[vm.a.interface]]
port = "vif1.0"
mac = "52:54:00:00:00:01"
addresses = ["10.0.1.2"]
[vm.b]
[[vm.b.interface]]
port = "vif2.0"
mac = "52:54:00:00:00:02"
addresses = ["10.0.2.2"]
[policy.both]
select = "all()"
default = { in = "deny", out = "allow" }
[[policy.both.rule]]
direction = "in"
action = "allow"
services = ["tcp/1000"]
"#;
/// Their ports, on the host, and themselves.
const NETWORK: &str = "set -e
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/icmp_ratemask
for n in 1 2; do
    ip netns add vm$n
    ip link add vif$n.0 type veth peer name eth0 netns vm$n address 52:54:00:00:00:0$n
    ip addr add 10.0.$n.1/24 dev vif$n.0; ip link set vif$n.0 up
    ip -n vm$n addr add 10.0.$n.2/24 dev eth0; ip -n vm$n link set eth0 up; ip -n vm$n route add default via 10.0.$n.1
done";
/// Nobody listens at either port: whoever gets there is refused, however long that takes an emulated machine, and whoever does not hears nothing. It writes down every
/// answer that is not as it should be.
const PROBE: &str = r#"while :; do
    for try in 1000:1:60 1001:124:1; do
        IFS=: read -r port wanted seconds <<< $try
        timeout $seconds ip netns exec vm1 bash -c "</dev/tcp/10.0.2.2/$port" 2>/dev/null
        code=$?
        test $code = $wanted || echo "port $port: $code at $(cut -d' ' -f1 /proc/uptime)" >> /run/probe.wrong
        echo $port >> /run/probe.tried
    done
done"#;

/// A Debian with the package, as a person at its console sees it.
pub(crate) struct Host(pub(crate) Guest);

impl Host {
    pub(crate) fn boot() -> Result<Host> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let victim = images::frozen(&Spec { vcpus: 2, ..Spec::new(KernelVersion::V6_12, Paging::Four) })?;
        symlink(&victim.ram, folder.path().join("victim.raw"))?;
        // To find a kernel that nobody knows takes an emulated machine minutes.
        let known = Command::new(env!("CARGO_BIN_EXE_lynceus"))
            .args(["info", &victim.ram.display().to_string()])
            .env("LYNCEUS_PROFILES", folder.path().join("profiles"))
            .output()?;
        ensure!(known.status.success(), "{}", String::from_utf8_lossy(&known.stderr));
        let files = vec![
            folder.path().join("victim.raw"),
            folder.path().join("profiles"),
            pack(folder.path(), "0.1.0")?,
            pack(folder.path(), "0.2.0")?,
        ];
        let spec = Spec::debian(KernelVersion::V6_12, files);
        let host = Host(Guest::boot(&Spec { name: format!("lyn{}debian", std::process::id()), ..spec })?);
        host.sh(NETWORK)?;
        host.write("/run/probe", PROBE)?;
        Ok(host)
    }

    /// What a shell says to this: any number of lines, which reach the guest as one.
    pub(crate) fn sh(&self, command: &str) -> Result<String> {
        self.0.run(&format!("eval \"$({})\"", spelled(command))).with_context(|| command.to_owned())
    }

    pub(crate) fn write(&self, path: &str, text: &str) -> Result<()> {
        self.0.run(&format!("mkdir -p $(dirname {path}); {} > {path}", spelled(text))).map(drop)
    }

    /// Asks again and again, with pauses: what is asked takes an emulated machine a second, in which it does nothing else.
    pub(crate) fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let paused = || match ask()? {
            None => self.sh("sleep 1").map(|_| None),
            answer => Ok(answer),
        };
        lynceus_lab::until(what, PATIENCE, paused).with_context(|| {
            self.sh("systemctl status lynceus; journalctl -b -o short-monotonic --no-pager | tail -n 60")
                .unwrap_or_default()
        })
    }

    pub(crate) fn show(&self, property: &str) -> Result<String> {
        Ok(self.sh(&format!("systemctl show -P {property} lynceus"))?.trim().to_owned())
    }

    pub(crate) fn status(&self) -> Result<Value> {
        // It exits with what it found.
        let text = self.sh("lynceus --json status || true")?;
        Ok(serde_json::from_str(text.lines().next().unwrap_or("null"))?)
    }

    /// The only VM's row, once it was looked at.
    pub(crate) fn watched(&self) -> Result<Value> {
        self.until("a look", || {
            let row = self.status()?["vms"][0].clone();
            Ok(row["looks"]["processes"].as_u64().filter(|looks| *looks > 0).map(|_| row))
        })
    }

    /// What the appliance told the journal as alerts, of a kind.
    pub(crate) fn alerts(&self, kind: &str) -> Result<Vec<Value>> {
        let lines = self.sh(&format!(
            "journalctl -b -o json --no-pager --all _SYSTEMD_UNIT=lynceus.service LYNCEUS_KIND={kind}"
        ))?;
        let alert = |line: &str| -> Result<Value> {
            let record: Value = serde_json::from_str(line)?;
            Ok(serde_json::from_str(record["LYNCEUS_ALERT"].as_str().context("no alert")?)?)
        };
        lines.lines().map(alert).collect()
    }

    /// The rules, with the numbers that the kernel gives what is made anew, and without what is counted.
    pub(crate) fn rules(&self) -> Result<String> {
        let all =
            self.sh("for f in inet bridge netdev; do nft -as list table $f lynceus 2>/dev/null; done; true")?;
        ensure!(all.contains("vif1.0") && all.contains("handle"), "{all}");
        Ok(all)
    }

    /// All probes so far went as they should, and some more do.
    pub(crate) fn guards(&self) -> Result<()> {
        let tried =
            || -> Result<u64> { Ok(self.sh("cat /run/probe.tried 2>/dev/null | wc -l")?.trim().parse()?) };
        let before = tried()?;
        self.until("probes", || Ok((tried()? > before + 3).then_some(())))?;
        let wrong = self.sh("cat /run/probe.wrong 2>/dev/null || true")?;
        ensure!(wrong.is_empty(), "{wrong}");
        Ok(())
    }
}

/// A command that says a text, whatever is in it.
fn spelled(text: &str) -> String {
    let octal: String = text.bytes().map(|byte| format!("\\0{byte:03o}")).collect();
    format!("printf '%b' '{octal}'")
}
