//! Looks at what is configured before anything is opened.
//!
//! *Does*: says everything that is wrong, with the key.
//! *Never*: stops at the first error.

use super::{Config, Format, Shape, SinkConfig, SinkKind, TlsConfig};
use crate::sinks::{syslog, tls};
use crate::spool::MIN_SPOOL_BYTES;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key, as in the file: `sinks.siem.tls.ca`.
    pub key: String,
    /// What is wrong with its value, or that it is missing.
    pub problem: String,
}

impl Config {
    /// Whether the files that are named exist, certificates and addresses can be read, and values make sense.
    pub fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Errors::default();
        if self.max_bytes < MIN_SPOOL_BYTES {
            errors.add("max_bytes", format!("must be at least {MIN_SPOOL_BYTES}"));
        }
        if self.funnel.per_second == 0 || self.funnel.burst == 0 {
            errors.add("funnel", "per_second and burst must be at least 1: no alert would ever be told");
        }
        if self.funnel.repeat_s.contains(&0) || self.funnel.repeat_s.is_empty() {
            errors.add("funnel.repeat_s", "must name at least one interval, and none of 0 seconds");
        }
        if self.sinks.is_empty() {
            errors.add("sinks", "there is none: alerts would reach nobody");
        }
        let mut names = HashSet::new();
        for (number, sink) in self.sinks.iter().enumerate() {
            if !is_name(&sink.name) {
                let problem = "must be 1 to 64 lower-case letters, digits and `-`";
                errors.add(format!("sinks[{number}].name"), problem);
            } else if !names.insert(&sink.name) {
                errors.add(format!("sinks[{number}].name"), format!("{} is there twice", sink.name));
            }
            sink.check(&mut errors);
        }
        errors.into_result()
    }
}

impl SinkConfig {
    fn check(&self, errors: &mut Errors) {
        let key = |name: &str| format!("sinks.{}.{name}", self.name);
        let encrypted = match (self.kind, self.address.as_deref()) {
            (SinkKind::Stdout, Some(_)) => return errors.add(key("address"), "standard output has none"),
            (SinkKind::Stdout | SinkKind::Journald, _) => false,
            (_, None) => return errors.add(key("address"), "is missing"),
            (SinkKind::File, Some(path)) => {
                check_file(path).unwrap_or_else(|problem| errors.add(key("address"), problem));
                false
            }
            (SinkKind::Syslog, Some(address)) => match syslog::parts(address) {
                Ok((scheme, ..)) => scheme == "tls",
                Err(problem) => return errors.add(key("address"), problem),
            },
            (SinkKind::Http, Some(url)) => match check_url(url) {
                Ok(encrypted) => encrypted,
                Err(problem) => return errors.add(key("address"), problem),
            },
        };
        self.check_tls(encrypted, errors);
        self.check_token(errors);
        if self.shape == Shape::Elastic && self.format == Format::Cef {
            errors.add(key("format"), "Elastic takes JSON only: json, ecs or ocsf");
        }
    }
    fn check_tls(&self, encrypted: bool, errors: &mut Errors) {
        let key = |name: &str| format!("sinks.{}.tls.{name}", self.name);
        if !encrypted {
            if self.tls != TlsConfig::default() {
                let key = format!("sinks.{}.tls", self.name);
                errors.add(key, "the address is not one with TLS (tls:// or https://)");
            }
            return;
        }
        if self.tls.ca.is_none() {
            return errors.add(key("ca"), "is missing: whose certificates are accepted?");
        }
        match (&self.tls.cert, &self.tls.key) {
            (Some(_), None) => return errors.add(key("key"), "is missing: there is a certificate"),
            (None, Some(_)) => return errors.add(key("cert"), "is missing: there is a key"),
            _ => {}
        }
        if let Err(error) = tls::client(&self.tls) {
            errors.add(key(error.key), error.to_string());
        }
    }
    fn check_token(&self, errors: &mut Errors) {
        let Some(path) = &self.token_file else { return };
        let key = format!("sinks.{}.token_file", self.name);
        match (std::fs::metadata(path), std::fs::read_to_string(path)) {
            (Err(error), _) | (_, Err(error)) => errors.add(key, format!("{}: {error}", path.display())),
            (Ok(meta), _) if meta.mode() & 0o007 != 0 => {
                errors.add(key, format!("{}: everybody may read it; chmod o= it", path.display()));
            }
            (_, Ok(token)) if !is_token(token.trim()) => {
                errors.add(key, format!("{}: it must be one word of printable ASCII", path.display()));
            }
            _ => {}
        }
    }
}

fn is_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

fn check_file(path: &str) -> Result<(), String> {
    let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
    let exists = folder.is_none_or(Path::is_dir);
    exists.then_some(()).ok_or_else(|| format!("{path} lies in a folder that does not exist"))
}

/// Whether the URL is one with TLS.
fn check_url(url: &str) -> Result<bool, String> {
    let uri: ureq::http::Uri = url.parse().map_err(|error| format!("{url} is no URL: {error}"))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(format!("{url} names no host"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(true),
        Some("http") => Ok(false),
        _ => Err(format!("{url} must begin with https:// or http://")),
    }
}

#[derive(Default)]
struct Errors(Vec<ConfigError>);

impl Errors {
    fn add(&mut self, key: impl Into<String>, problem: impl Into<String>) {
        self.0.push(ConfigError { key: key.into(), problem: problem.into() });
    }
    fn into_result(self) -> Result<(), Vec<ConfigError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}
