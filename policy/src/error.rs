//! What can be wrong with policy files, said so that it can be put right.

use crate::place::Place;
use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// At most so many errors are told of one folder.
pub(crate) const MAX_ERRORS: usize = 100;

/// One thing that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{place}: {kind}")]
pub struct PolicyError {
    /// Where.
    pub place: Place,
    /// What.
    pub kind: ErrorKind,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ErrorKind {
    /// Not TOML, or a key or value that is none of the known ones.
    #[error("{0}")]
    Syntax(String),
    /// A value that cannot be understood.
    #[error("`{value}` is no {expected}: {why}")]
    Value {
        /// As it stands in the file.
        value: String,
        /// What it should be.
        expected: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A name that nothing has.
    #[error("there is no {kind} called `{name}`{hint}")]
    Unknown {
        /// Group, address set, …
        kind: &'static str,
        /// The name.
        name: String,
        /// `; did you mean …?`, or nothing.
        hint: String,
    },
    /// A name that two things have.
    #[error("{kind} `{name}` is there already, at {first}")]
    Duplicate {
        /// Group, address set, …
        kind: &'static str,
        /// The name.
        name: String,
        /// Where the other is.
        first: Place,
    },
    /// Something that includes itself.
    #[error("{kind} `{name}` includes itself: {through}")]
    Cycle {
        /// Group, address set, policy.
        kind: &'static str,
        /// The name.
        name: String,
        /// The way round, `a → b → a`, shortened.
        through: String,
    },
    /// More of something than is taken.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A template used wrongly.
    #[error("template `{template}`: {why}")]
    Template {
        /// Which.
        template: String,
        /// What is wrong.
        why: String,
    },
    /// Two things that cannot be together.
    #[error("{0}")]
    Conflict(String),
}

/// Why a folder gives no policy.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file, or all of them together, are larger than any sensible policy.
    #[error("{}: {bytes} bytes; a policy file may have {limit}, all of them together {total}",
        path.display(), limit = crate::load::MAX_FILE_BYTES, total = crate::load::MAX_TOTAL_BYTES)]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// More files than are taken.
    #[error("{}: more than {limit} policy files", path.display(), limit = crate::load::MAX_FILES)]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds no policy.
    #[error("{}: no *.toml file in it", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// What the files say is wrong.
    #[error("{0}")]
    Policy(Errors),
}

/// Everything that is wrong with a folder, in the order of the files.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Errors {
    /// The first of them.
    pub errors: Vec<PolicyError>,
    /// How many more there were.
    pub more: usize,
}

impl Errors {
    /// Keeps an error, or counts it where there are too many.
    pub(crate) fn push(&mut self, place: Place, kind: ErrorKind) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(PolicyError { place, kind });
        } else {
            self.more += 1;
        }
    }

    /// `value` where nothing is wrong.
    pub(crate) fn or<T>(mut self, value: T) -> Result<T, LoadError> {
        if self.errors.is_empty() {
            return Ok(value);
        }
        self.errors.sort_by(|one, other| one.place.cmp(&other.place));
        Err(LoadError::Policy(self))
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "\n" })?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

/// Why a piece of text is not what it should be; the caller knows where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct ParseError(pub(crate) String);

impl ParseError {
    pub(crate) fn new(why: impl Into<String>) -> ParseError {
        ParseError(why.into())
    }
}
