//! Looks at what is configured before anything is opened.
//!
//! *Does*: says everything that is wrong, with the key.
//! *Never*: stops at the first error.

use super::{Config, SinkConfig, SinkKind};
use crate::spool::MIN_SPOOL_BYTES;
use std::collections::HashSet;
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
        match (self.kind, self.address.as_deref()) {
            (SinkKind::File, None) => errors.add(key("address"), "a file's path is missing"),
            (SinkKind::File, Some(path)) => {
                let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
                if !folder.is_none_or(Path::is_dir) {
                    errors.add(key("address"), format!("{path} lies in a folder that does not exist"));
                }
            }
            (SinkKind::Stdout, Some(_)) => errors.add(key("address"), "standard output has none"),
            (SinkKind::Stdout, None) => {}
        }
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
