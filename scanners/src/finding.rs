//! What a detector reports: a fact about a guest, with what proves it.

use crate::signatures::RuleMatch;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Worth a look.
    Medium,
    /// Worth waking somebody.
    High,
    /// The guest is no longer its owner's.
    Critical,
}

impl Severity {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

/// What a finding is about.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Subject {
    /// A process or a thread.
    Task {
        /// Thread id.
        pid: u32,
        /// Process id.
        tgid: u32,
        /// Its name, as the guest wrote it.
        comm: String,
        /// Address of its `task_struct`.
        address: u64,
    },
    /// A kernel module.
    Module {
        /// Its name, as the guest wrote it.
        name: String,
        /// Where its code begins.
        base: u64,
        /// Address of its `struct module`.
        address: u64,
    },
    /// A place in the kernel's own data.
    Kernel {
        /// The symbol, with an index or offset.
        symbol: String,
        /// Its address.
        address: u64,
        /// What is there.
        value: String,
    },
    /// A file in the page cache.
    File {
        /// Its path within its file system; empty where the kernel has forgotten its name.
        path: String,
        /// The kind of its file system.
        fs: String,
        /// Its inode number.
        inode: u64,
        /// Its size in bytes.
        size_bytes: u64,
        /// It has no name on disk.
        deleted: bool,
        /// SHA-256 of its content, where all of it is in memory.
        sha256: Option<String>,
    },
    /// A piece of memory.
    Memory {
        /// The process whose it is; none for the kernel's and for all RAM.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// Its name, as the guest wrote it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comm: Option<String>,
        /// The process's control group, where it is in one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup: Option<String>,
        /// The container that the control group is of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<String>,
        /// First address.
        start: u64,
        /// The address after the last.
        end: u64,
        /// The file or name of the map, or of the part of the kernel.
        path: String,
    },
    /// A socket.
    Socket {
        /// Its protocol, as `/proc/net` names the file of it.
        protocol: String,
        /// This end.
        local: String,
        /// The other end.
        remote: String,
        /// Its state, as `ss` prints it.
        state: Cow<'static, str>,
        /// Inode number, as in `socket:[N]`.
        inode: u64,
        /// Address of its `struct sock`.
        address: u64,
    },
    /// Something that the guest's memory and a trusted profile of the same build tell differently.
    Profile {
        /// The symbol, or the structure and its member.
        symbol: String,
    },
}

/// A fact about a guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the detector.
    pub detector: Cow<'static, str>,
    /// MITRE ATT&CK technique.
    pub technique: Cow<'static, str>,
    /// How bad it is.
    pub severity: Severity,
    /// The fact in a line.
    pub summary: String,
    /// What it is about.
    pub subject: Subject,
    /// Views that show the subject.
    pub seen_in: Vec<Cow<'static, str>>,
    /// Views that should show it and do not.
    pub missing_from: Vec<Cow<'static, str>>,
    /// The signature that matched, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleMatch>,
}

impl Finding {
    /// A finding of no view and no rule in particular.
    pub(crate) fn new(
        detector: &'static str,
        technique: impl Into<Cow<'static, str>>,
        severity: Severity,
        summary: String,
        subject: Subject,
    ) -> Finding {
        let (seen_in, missing_from) = (Vec::new(), Vec::new());
        Finding {
            detector: detector.into(),
            technique: technique.into(),
            severity,
            summary,
            subject,
            seen_in,
            missing_from,
            rule: None,
        }
    }

    /// The same, with the views that show the subject and those that should and do not.
    pub(crate) fn seen(mut self, seen_in: &[&'static str], missing_from: &[&'static str]) -> Finding {
        let named = |views: &[&'static str]| views.iter().copied().map(Cow::Borrowed).collect();
        (self.seen_in, self.missing_from) = (named(seen_in), named(missing_from));
        self
    }
}
