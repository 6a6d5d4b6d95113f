//! The set-ups in `examples/siem` are what they say: rsyslog accepts its part, the appliance's parts are complete, and an alert sent with
//! them arrives.

use anyhow::{Context, Result, bail, ensure};
use lynceus_alerts::encode::{self, Origin};
use lynceus_alerts::{Alert, Config, Pipeline};
use lynceus_lab::packages;
use lynceus_scanners::{Finding, Severity, Subject};
use serde_json::Value;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/siem")
}

fn alert() -> Alert {
    let finding = Finding {
        detector: "hidden_task".into(),
        technique: "T1014".into(),
        severity: Severity::High,
        summary: "task 1 hides".to_owned(),
        subject: Subject::Task { pid: 1, tgid: 1, comm: "x".to_owned(), address: u64::MAX },
        seen_in: vec![],
        missing_from: vec![],
        rule: None,
    };
    Alert::new("web-1", finding, SystemTime::now())
}

/// Certificates in `folder`, made as the README says.
fn certificates(folder: &Path) -> Result<()> {
    let made = Command::new(examples().join("rsyslog/make-certificates.sh"))
        .arg(folder)
        .args(["siem", "lynceus-host"])
        .status()?;
    ensure!(made.success(), "make-certificates.sh failed");
    // The server's certificate must have the name that it is called by here.
    let made = Command::new(examples().join("rsyslog/make-certificates.sh"))
        .arg(folder)
        .args(["127.0.0.1", "lynceus-host"])
        .status()?;
    ensure!(made.success(), "make-certificates.sh failed");
    fs::rename(folder.join("127.0.0.1.pem"), folder.join("siem.pem"))?;
    fs::rename(folder.join("127.0.0.1.key"), folder.join("siem.key"))?;
    for name in ["elastic.key", "splunk.token"] {
        fs::write(folder.join(name), "secret\n")?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// A file of an example, with everything in `folder` instead of the system's folders.
fn adapted(file: &str, folder: &Path) -> Result<String> {
    let dir = folder.display().to_string();
    let text = fs::read_to_string(examples().join(file))?;
    Ok(text.replace("/etc/lynceus/tls", &dir).replace("/etc/lynceus", &dir).replace("/var/log/lynceus", &dir))
}

fn config(file: &str, folder: &Path) -> Result<Config> {
    let text = format!("spool = '{}/spool'\n{}", folder.display(), adapted(file, folder)?);
    Ok(toml::from_str(&text)?)
}

#[test]
fn the_appliances_parts_are_complete() -> Result<()> {
    let folder = tempfile::tempdir()?;
    certificates(folder.path())?;
    for name in ["rsyslog", "vector", "elastic", "splunk"] {
        let config = config(&format!("{name}/lynceus.toml"), folder.path())?;
        if let Err(errors) = config.check() {
            bail!("{name}: {errors:?}");
        }
    }
    Ok(())
}

/// A running rsyslogd.
struct Rsyslog(Child);

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn rsyslog_accepts_its_part_and_an_alert_arrives() -> Result<()> {
    packages::ensure(packages::ALL)?;
    let folder = tempfile::tempdir()?;
    certificates(folder.path())?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let file = folder.path().join("rsyslog.conf");
    fs::write(
        &file,
        adapted("rsyslog/lynceus.conf", folder.path())?.replace("port=\"6514\"", &format!("port=\"{port}\"")),
    )?;
    let checked = Command::new("rsyslogd").args(["-N1", "-f"]).arg(&file).output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let child =
        Command::new("rsyslogd").args(["-n", "-iNONE", "-f"]).arg(&file).stdin(Stdio::null()).spawn()?;
    let _rsyslog = Rsyslog(child);
    until("rsyslogd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
    let mut config = config("rsyslog/lynceus.toml", folder.path())?;
    config.sinks[0].address = Some(format!("tls://127.0.0.1:{port}"));
    let pipeline = Pipeline::open(&config)?;
    pipeline.raise(alert())?;
    let received = folder.path().join("alerts.json");
    until("it arrived", || fs::read_to_string(&received).is_ok_and(|text| text.ends_with('\n')))?;
    let event: Value = serde_json::from_str(fs::read_to_string(&received)?.trim_end())?;
    ensure!(event["class_uid"] == 2004 && event["message"] == "task 1 hides", "{event:#}");
    pipeline.close(Duration::from_secs(10));
    Ok(())
}

/// Every field that a document has, but for those under `lynceus`, has a type in Elastic's template.
#[test]
fn elastics_template_knows_the_fields() -> Result<()> {
    let template: Value =
        serde_json::from_str(&fs::read_to_string(examples().join("elastic/index-template.json"))?)?;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/alerts.ecs");
    let mut documents: Vec<Value> =
        fs::read_to_string(golden)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let line = encode::line(&alert(), lynceus_alerts::Format::Ecs, &Origin::here());
    documents.push(serde_json::from_str(&line)?);
    for document in &documents {
        covered("", document, &template["template"]["mappings"])?;
    }
    Ok(())
}

fn covered(at: &str, value: &Value, mapping: &Value) -> Result<()> {
    let fields = value.as_object().context("an object")?;
    for (name, field) in fields.iter().filter(|(name, _)| *name != "lynceus") {
        let mapping = &mapping["properties"][name];
        ensure!(!mapping.is_null(), "{at}{name} is not in the template");
        if field.is_object() {
            covered(&format!("{at}{name}."), field, mapping)?;
        }
    }
    Ok(())
}

fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    lynceus_lab::until_so(what, Duration::from_secs(60), || Ok(done()))
}
