//! What is wrong with a configuration is said with the key, before anything is opened.

use anyhow::{Result, ensure};
use lynceus_alerts::Config;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Certificates, keys and tokens: right ones, and some that are not.
fn files(folder: &Path) -> Result<()> {
    for name in ["one", "two"] {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["host".to_owned()])?;
        fs::write(folder.join(format!("{name}.pem")), cert.pem())?;
        fs::write(folder.join(format!("{name}.key")), signing_key.serialize_pem())?;
    }
    fs::write(folder.join("broken.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
    fs::write(folder.join("empty"), "")?;
    for (name, text, mode) in
        [("token", "secret\n", 0o600), ("open", "secret", 0o644), ("two-words", "a b", 0o600)]
    {
        fs::write(folder.join(name), text)?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// The keys that are wrong in `text`, where `@` is the folder with the files.
fn wrong(folder: &Path, text: &str) -> Result<Vec<String>> {
    let text = format!("spool = '@/spool'\n{text}").replace('@', &folder.display().to_string());
    let config: Config = toml::from_str(&text)?;
    let errors = config.check().err().unwrap_or_default();
    Ok(errors.into_iter().map(|error| error.key).collect())
}

const SYSLOG: &str = "[[sinks]]\nname = 's'\nkind = 'syslog'\naddress = 'tls://host:6514'\n";
const HTTP: &str = "[[sinks]]\nname = 's'\nkind = 'http'\naddress = 'https://host/x'\ntls.ca = '@/one.pem'\n";

#[test]
fn each_error_names_its_key() -> Result<()> {
    let folder = tempfile::tempdir()?;
    files(folder.path())?;
    let sink = |kind: &str, rest: &str| format!("[[sinks]]\nname = 's'\nkind = '{kind}'\n{rest}");
    let tls = |rest: &str| format!("{SYSLOG}{rest}");
    let http = |rest: &str| format!("{HTTP}{rest}");
    let right = "[[sinks]]\nname = 's'\nkind = 'stdout'\n";
    let twice = format!("{right}{right}");
    for (text, keys) in [
        (right.to_owned(), vec![]),
        (String::new(), vec![]),
        ("sinks = []".to_owned(), vec!["sinks"]),
        (format!("max_bytes = 1\n{right}"), vec!["max_bytes"]),
        (format!("funnel.burst = 0\n{right}"), vec!["funnel"]),
        (format!("funnel.repeat_s = []\n{right}"), vec!["funnel.repeat_s"]),
        (twice, vec!["sinks[1].name"]),
        (sink("stdout", "address = 'x'"), vec!["sinks.s.address"]),
        (sink("file", ""), vec!["sinks.s.address"]),
        (sink("file", "address = '@/none/a.log'"), vec!["sinks.s.address"]),
        (sink("file", "address = '@/a.log'"), vec![]),
        (sink("syslog", "address = 'host:514'"), vec!["sinks.s.address"]),
        (sink("syslog", "address = 'tcp://host'"), vec!["sinks.s.address"]),
        (sink("syslog", "address = 'tcp://host:99999'"), vec!["sinks.s.address"]),
        (sink("syslog", "address = 'udp://[::1]:514'"), vec![]),
        (sink("syslog", "address = 'tcp://host:514'\ntls.ca = '@/one.pem'"), vec!["sinks.s.tls"]),
        (tls(""), vec!["sinks.s.tls.ca"]),
        (tls("tls.ca = '@/none.pem'"), vec!["sinks.s.tls.ca"]),
        (tls("tls.ca = '@/empty'"), vec!["sinks.s.tls.ca"]),
        (tls("tls.ca = '@/broken.pem'"), vec!["sinks.s.tls.ca"]),
        (tls("tls.ca = '@/one.pem'"), vec![]),
        (tls("tls.ca = '@/one.pem'\ntls.cert = '@/one.pem'"), vec!["sinks.s.tls.key"]),
        (tls("tls.ca = '@/one.pem'\ntls.key = '@/one.key'"), vec!["sinks.s.tls.cert"]),
        (
            tls("tls.ca = '@/one.pem'\ntls.cert = '@/one.pem'\ntls.key = '@/two.key'"),
            vec!["sinks.s.tls.cert"],
        ),
        (tls("tls.ca = '@/one.pem'\ntls.cert = '@/one.pem'\ntls.key = '@/empty'"), vec!["sinks.s.tls.key"]),
        (tls("tls.ca = '@/one.pem'\ntls.cert = '@/one.pem'\ntls.key = '@/one.key'"), vec![]),
        (sink("http", "address = 'ftp://host'"), vec!["sinks.s.address"]),
        (sink("http", "address = 'https://host/x'"), vec!["sinks.s.tls.ca"]),
        (http(""), vec![]),
        (http("token_file = '@/none'"), vec!["sinks.s.token_file"]),
        (http("token_file = '@/open'"), vec!["sinks.s.token_file"]),
        (http("token_file = '@/two-words'"), vec!["sinks.s.token_file"]),
        (http("token_file = '@/token'"), vec![]),
        (http("shape = 'elastic'\nformat = 'cef'"), vec!["sinks.s.format"]),
    ] {
        let found = wrong(folder.path(), &text)?;
        ensure!(found == keys, "{found:?} instead of {keys:?} for\n{text}");
    }
    Ok(())
}

#[test]
fn an_unknown_key_is_an_error() {
    for text in [
        "spool = 'a'\nspol = 'b'",
        "spool = 'a'\n[funnel]\nbursts = 1",
        "spool = 'a'\n[[sinks]]\nname = 's'\nkind = 'stdout'\nport = 1",
        "spool = 'a'\n[[sinks]]\nname = 's'\nkind = 'stdout'\ntls.chain = 'x'",
        "spool = 'a'\n[[sinks]]\nname = 's'\nkind = 'kafka'",
    ] {
        toml::from_str::<Config>(text).expect_err(text);
    }
}
