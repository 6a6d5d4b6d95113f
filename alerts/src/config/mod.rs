//! What an admin configures: the spool, how often the same is told, and the sinks.
//!
//! *Does*: names every key and its default.
//! *Never*: accepts a key that it does not know. [`Config::check`] says what else is wrong, before anything is opened.

mod check;

pub use check::ConfigError;

use lynceus_scanners::Severity;
use serde::Deserialize;
use std::path::PathBuf;

/// The alert pipeline.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder of the spool.
    pub spool: PathBuf,
    /// How large it may become, in bytes.
    pub max_bytes: u64,
    /// How often the same is told, and how much of one VM.
    pub funnel: FunnelConfig,
    /// Where alerts go.
    pub sinks: Vec<SinkConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let spool = PathBuf::from("/var/lib/lynceus/spool");
        Config {
            spool,
            max_bytes: 1 << 30,
            funnel: FunnelConfig::default(),
            sinks: vec![SinkConfig::new("stdout", SinkKind::Stdout)],
        }
    }
}

/// How often the same is told, and how much of one VM.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FunnelConfig {
    /// Seconds after which repeats are told: the first time, the second time, …; the last one holds from then on.
    pub repeat_s: Vec<u64>,
    /// New alerts a second of one VM and one severity, in the long run.
    pub per_second: u32,
    /// As many may come at once.
    pub burst: u32,
}

impl Default for FunnelConfig {
    fn default() -> Self {
        FunnelConfig { repeat_s: vec![60, 600, 3600], per_second: 10, burst: 100 }
    }
}

/// A place where alerts go.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// Its name: lower-case letters, digits and `-`. Its place in the spool is kept under this name.
    pub name: String,
    /// What kind of place.
    pub kind: SinkKind,
    /// Where: `udp://host:514`, `tcp://host:601` or `tls://host:6514` for syslog; the whole URL for HTTP; the path of a file, or of
    /// journald's socket if it is not the usual one.
    #[serde(default)]
    pub address: Option<String>,
    /// How alerts are written.
    #[serde(default)]
    pub format: Format,
    /// Certificates, where there is TLS.
    #[serde(default)]
    pub tls: TlsConfig,
    /// The file with the token or API key of HTTP, which only its owner may read.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// What an HTTP receiver expects.
    #[serde(default)]
    pub shape: Shape,
    /// The index, for Elastic; the default is `lynceus-alerts`.
    #[serde(default)]
    pub index: Option<String>,
    /// Less severe alerts are not sent there.
    #[serde(default = "default_severity")]
    pub min_severity: Severity,
    /// After so many seconds without success an alert says so.
    #[serde(default = "default_down_after")]
    pub down_after_s: u64,
    /// Whether alerts are refused rather than lost to this sink when the spool is full.
    #[serde(default = "default_required")]
    pub required: bool,
    /// A file is put aside when it is as large as this.
    #[serde(default = "default_rotate_bytes")]
    pub rotate_bytes: u64,
    /// So many files that were put aside are kept.
    #[serde(default = "default_keep_files")]
    pub keep_files: u32,
}

impl SinkConfig {
    /// A sink with defaults.
    pub fn new(name: &str, kind: SinkKind) -> SinkConfig {
        SinkConfig {
            name: name.to_owned(),
            kind,
            address: None,
            format: Format::default(),
            tls: TlsConfig::default(),
            token_file: None,
            shape: Shape::default(),
            index: None,
            min_severity: default_severity(),
            down_after_s: default_down_after(),
            required: default_required(),
            rotate_bytes: default_rotate_bytes(),
            keep_files: default_keep_files(),
        }
    }
}

/// The kinds of places.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// A syslog server, by UDP, TCP or TLS.
    Syslog,
    /// An HTTP receiver.
    Http,
    /// A file, put aside when it is large.
    File,
    /// Standard output.
    Stdout,
    /// systemd's journal.
    Journald,
}

/// How alerts are written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As Lynceus has them.
    #[default]
    Json,
    /// Elastic Common Schema.
    Ecs,
    /// Open Cybersecurity Schema Framework.
    Ocsf,
    /// Common Event Format.
    Cef,
}

/// What an HTTP receiver expects.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A line for each alert.
    #[default]
    Lines,
    /// Splunk's HTTP Event Collector.
    Hec,
    /// Elastic's bulk interface.
    Elastic,
}

/// Certificates: PEM files.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Who may have signed the receiver's certificate.
    pub ca: Option<PathBuf>,
    /// Our certificate, with those between it and the CA.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

fn default_severity() -> Severity {
    Severity::Low
}
fn default_required() -> bool {
    true
}

fn default_down_after() -> u64 {
    60
}
fn default_rotate_bytes() -> u64 {
    64 << 20
}
fn default_keep_files() -> u32 {
    5
}
