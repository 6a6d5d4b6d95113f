//! Names in rules, by a real DNS server on the host's loopback: followed by their TTL, and never what anybody waits for.

use crate::enforcer::{EXTRA, Enforcer, plug, reaches, soon};
use crate::world::{GATEWAYS, MEMBERS, Probe, World};
use anyhow::{Context, Result, ensure};
use lynceus_lab::until_so;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const A: &str = MEMBERS[0].3[0];
/// The two machines outside: somebody, and the host itself.
const THERE: &str = MEMBERS[3].3[0];
const HOST: &str = GATEWAYS[3][0];
/// Whoever asks for a name below `slow.example` hears nothing: what is sent there comes back, and is no answer.
const OPTIONS: &str = "--keep-in-foreground --no-resolv --no-hosts --port=53 --listen-address=127.0.0.1 --bind-interfaces --user=root \
    --pid-file= --local-ttl=1 --log-queries=extra --local=/example/ --server=/slow.example/192.0.2.1#1000 \
    --host-record=long.example,192.0.2.7,3000 --host-record=lies.example,127.0.0.1 --host-record=inner.example,10.0.2.2";

/// dnsmasq in the host's namespace, which is the host's only server.
pub(crate) struct Dns<'w> {
    world: &'w World,
    files: PathBuf,
    server: Option<Child>,
}

impl<'w> Dns<'w> {
    pub(crate) fn start(world: &'w World, names: &str) -> Result<Dns<'w>> {
        // `ip netns exec` puts what is here over /etc.
        let files = PathBuf::from("/etc/netns").join(world.ns("h"));
        fs::create_dir_all(&files)?;
        let mut dns = Dns { world, files, server: None };
        fs::write(dns.files.join("resolv.conf"), "nameserver 127.0.0.1\n")?;
        dns.say(names)?;
        dns.run()?;
        Ok(dns)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.folder.path().join(name)
    }

    /// What names stand for from now on, as a `hosts` file has it.
    fn say(&self, names: &str) -> Result<()> {
        fs::write(self.path("names"), format!("{names}\n"))?;
        if let Some(server) = &self.server {
            crate::world::run(&format!("kill -HUP {}", server.id()))?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.path("queries"))?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.world.ns("h"), "dnsmasq", "--log-facility=-"]);
        command
            .args(OPTIONS.split_whitespace())
            .arg(format!("--addn-hosts={}", self.path("names").display()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.server = Some(child.context("dnsmasq: `cargo xtask test` installs it")?);
        until_so("dnsmasq", Duration::from_secs(30), || Ok(self.log().contains("started")))
    }

    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("queries")).unwrap_or_default()
    }

    /// How often a name's IPv4 addresses were asked for.
    fn asked(&self, name: &str) -> usize {
        self.log().matches(&format!("query[A] {name} ")).count()
    }
}

impl Drop for Dns<'_> {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.files);
    }
}

fn opens(world: &World, target: &'static str) -> Result<bool> {
    Ok(world.probe(Probe { proto: "tcp", source: A, target, port: 1000 })? == "open")
}

#[test]
fn packets_follow_a_name() -> Result<()> {
    let world = World::new()?;
    let dns = Dns::start(&world, &format!("{THERE} moves.example"))?;
    world.apply(
        "[policy.a]\nvms=['a']\n[[policy.a.rule]]\ndirection='out'\naction='allow'\npeer={names=['moves.example','long.example']}\n",
    )?;
    ensure!(opens(&world, THERE)? && !opens(&world, HOST)?, "what the name stands for, and nothing else");
    let mut enforcer = Enforcer::start(&world)?;
    let mut open = world.hold("a", A, THERE, "1001")?;
    dns.say(&format!("{HOST} moves.example"))?;
    ensure!(enforcer.until("names")?.contains("moves.example"));
    ensure!(opens(&world, HOST)?, "what the name stands for now is closed");
    // It was asked again when its TTL was over: 1 s, taken for 5. The other one's is fifty minutes.
    ensure!(dns.asked("moves.example") > 1 && dns.asked("long.example") == 1, "{}", dns.log());
    // What it stood for goes, but not while a connection there is open.
    let asked = dns.asked("moves.example");
    soon("it is asked four times more", || Ok(dns.asked("moves.example") > asked + 3))?;
    ensure!(open.ask("2")? == "alive", "an open connection is cut because a name moved");
    drop(open);
    soon("what the name stood for is closed", || Ok(!opens(&world, THERE)?))?;
    ensure!(opens(&world, HOST)? && dns.asked("long.example") == 1);
    Ok(())
}

#[test]
fn packets_pass_while_servers_are_slow_or_dead() -> Result<()> {
    let world = World::new()?;
    let mut dns = Dns::start(&world, &format!("{HOST} good.example\n{THERE} good.example"))?;
    let slow: Vec<String> = (0..40).map(|number| format!("'n{number}.slow.example'")).collect();
    let rule = |names: &str| {
        format!(
            "{EXTRA}[policy.a]\nselect='all()'\n[[policy.a.rule]]\ndirection='out'\naction='allow'\npeer={{names=[{names}]}}\n"
        )
    };
    // Forty names that nobody answers for hold up neither the policy nor the one that is known.
    world.write(&rule(&format!("'good.example',{}", slow.join(","))))?;
    let said = world.expect(&["policy", "apply"], 3)?;
    ensure!(said.contains("slow.example") && !said.contains("good.example"), "{said}");
    ensure!(opens(&world, HOST)?);
    let mut enforcer = Enforcer::start(&world)?;
    plug(&world)?;
    ensure!(enforcer.until("guarded")?.contains("tap7"), "a port waits for servers");
    soon("a port's packets pass while servers are asked", || reaches(&world, 1001))?;

    // The server dies, and so does the enforcer: what was known holds.
    world.write(&rule("'good.example'"))?;
    world.expect(&["policy", "apply"], 0)?;
    dns.stop();
    ensure!(enforcer.until("names failing")?.contains("good.example"));
    ensure!(opens(&world, HOST)?, "a dead server closes what was open");
    drop(enforcer);
    let mut enforcer = Enforcer::start(&world)?;
    enforcer.until("names failing")?;
    let said = world.expect(&["policy", "apply"], 3)?;
    ensure!(said.contains("stands for what it did until"), "{said}");
    ensure!(opens(&world, HOST)?, "what was known is forgotten");
    dns.run()?;
    enforcer.until("names known")?;
    Ok(())
}

/// Whoever answers for a name opens neither this host nor this site's machines.
#[test]
fn packets_of_names_stay_outside() -> Result<()> {
    let world = World::new()?;
    let _dns = Dns::start(&world, "")?;
    let policy = |private: bool| {
        format!(
            "[policy.b]\nvms=['b']\ndefault={{in='allow'}}\n[policy.a]\nvms=['a']\n[[policy.a.rule]]\ndirection='out'\naction='allow'\npeer={{names=['lies.example','inner.example'],private={private}}}\n"
        )
    };
    world.write(&policy(false))?;
    let said = world.expect(&["policy", "apply"], 3)?;
    ensure!(said.contains("lies.example (V4): 1 of its addresses are not taken"), "{said}");
    ensure!(
        said.contains("inner.example stands for 10.0.2.2, and rule `a/1` lacks `private = true`"),
        "{said}"
    );
    ensure!(!opens(&world, MEMBERS[1].3[0])?, "a name opens a neighbour");
    world.write(&policy(true))?;
    world.expect(&["policy", "apply"], 3)?;
    ensure!(opens(&world, MEMBERS[1].3[0])?, "a name that may stand for a neighbour does not");
    Ok(())
}
