//! What the appliance says of itself, and how.
//!
//! *Trusts*: the configuration. *Never*: says what a guest wrote unescaped: who logs it escapes it.

use anyhow::{Context, Result};
use serde::Deserialize;

/// What the appliance says of itself.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// How.
    pub(crate) format: LogFormat,
    /// The least that is said.
    pub(crate) level: LogLevel,
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Text, level: LogLevel::Info }
    }
}

/// Forms of the log.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines for people, on standard error.
    Text,
    /// JSON lines, on standard error.
    Json,
    /// To the journal, with fields.
    Journald,
}

/// Levels of the log.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    /// What failed.
    Error,
    /// What somebody should see to.
    Warn,
    /// What happened.
    Info,
    /// Every look.
    Debug,
}

impl Log {
    /// From here on it is said so.
    pub(super) fn start(&self) -> Result<()> {
        use tracing_subscriber::layer::SubscriberExt;
        let level = match self.level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
        };
        let builder =
            tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
        match self.format {
            LogFormat::Text => builder.with_ansi(false).init(),
            LogFormat::Json => builder.json().init(),
            LogFormat::Journald => {
                let journal = tracing_journald::layer().context("the journal")?;
                let filter = tracing_subscriber::filter::LevelFilter::from_level(level);
                let subscriber = tracing_subscriber::registry().with(filter).with(journal);
                tracing::subscriber::set_global_default(subscriber).context("the log")?;
            }
        }
        Ok(())
    }
}
