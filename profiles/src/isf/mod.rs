//! Volatility 3's intermediate symbol format (ISF, schema 6.2.0), read and written.
//!
//! Written, so that a profile found in memory serves other tools, without a debug package. Read, so that an admin's
//! existing symbol files are trusted profiles here.
//!
//! *Trusts*: nothing. *Never*: reads more than [`MAX_FILE_BYTES`] of JSON, packed or not.
//!
//! Source of the layout: `volatility3/schemas/schema-6.2.0.json`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod export;
mod import;

pub use export::write;
pub use import::read;

/// Largest file, after unpacking: those of debug kernels are some 60 MB.
pub const MAX_FILE_BYTES: u64 = 512 << 20;

/// Why a file gives no profile.
#[derive(Debug, thiserror::Error)]
pub enum IsfError {
    /// It does not unpack.
    #[error("the xz file does not unpack: {0}")]
    Unpack(String),
    /// Too large.
    #[error("more than {} MiB", MAX_FILE_BYTES >> 20)]
    TooLarge,
    /// Not the JSON it should be.
    #[error("not an ISF file: {0}")]
    Json(#[from] serde_json::Error),
    /// A version of the format that is not read.
    #[error("ISF format {0}: versions 6.x are read")]
    Version(String),
    /// A type that leads nowhere or cannot be.
    #[error("type `{ty}`: {why}")]
    Type {
        /// The structure.
        ty: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No banner, without which nobody can tell which kernel it is for.
    #[error("no symbol `linux_banner` with the banner's text: not a Linux kernel's file")]
    NoBanner,
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
