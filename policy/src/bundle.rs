//! A whole policy in one file that can be signed: all files and a serial number that only ever goes up.
//!
//! `minisign -S -m site.bundle` signs it, on whatever machine the secret key is kept. *Trusts*: nothing before its signature is
//! checked. *Never*: holds a secret key.

use crate::error::LoadError;
use crate::load::{Folder, MAX_TOTAL_BYTES, read_files};
use crate::syntax::Tier;
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The number of this format.
const FORMAT: u32 = 1;
/// JSON may need more bytes than what is in it.
const MAX_BYTES: u64 = 2 * MAX_TOTAL_BYTES;

/// All files of a policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    format: u32,
    /// Goes up with every change.
    pub serial: u64,
    /// The texts, by their paths below the folder.
    files: BTreeMap<String, String>,
}

/// Whose signature is believed, and about what.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Nothing is applied that is not signed.
    pub require_signature: bool,
    /// The keys.
    pub key: Vec<TrustedKey>,
}

/// A key that is believed.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    /// Who has it.
    pub name: String,
    /// As minisign writes it: the second line of the `.pub` file.
    pub public: String,
    /// What its owner may change: those tiers; `platform` is also the inventory, isolation and what is looked for.
    pub tiers: BTreeSet<Tier>,
}

/// Why a bundle is not believed.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of trusted keys cannot be understood.
    #[error("{}: {why}", path.display())]
    Settings {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It is not a bundle.
    #[error("not a policy bundle: {0}")]
    Malformed(String),
    /// Signatures are required and there is none.
    #[error(
        "signatures are required, and there is none: make a bundle with `lynceus policy bundle`, and sign it with minisign"
    )]
    Unsigned,
    /// There is a signature, and no trusted key made it: it is another's, or the bundle was altered.
    #[error("no trusted key has signed exactly this: it was altered, or another key was used")]
    NotTrusted,
    /// It is older than what was applied.
    #[error("its serial number is {serial}, and {last} was applied already: older policies are refused")]
    Older {
        /// Its number.
        serial: u64,
        /// The highest that was applied.
        last: u64,
    },
    /// Its signer may not change what it changes.
    #[error("the key of {signer} may not change the tier {}", tier.name())]
    NotAllowed {
        /// Whose key.
        signer: String,
        /// Which tier.
        tier: Tier,
    },
}

impl Bundle {
    /// Reads a folder's files and puts them together. They must be a policy.
    pub fn pack(folder: &Path, serial: u64) -> Result<Bundle, LoadError> {
        let files = read_files(folder)?;
        crate::resolve::Policy::of(&Folder::parse(files.clone())?)?;
        Ok(Bundle { format: FORMAT, serial, files: files.into_iter().collect() })
    }

    /// Reads a bundle's file.
    pub fn read(path: &Path) -> Result<(Bundle, Vec<u8>), TrustError> {
        let bytes = read(path)?;
        let bundle: Bundle =
            serde_json::from_slice(&bytes).map_err(|error| TrustError::Malformed(error.to_string()))?;
        match bundle.format {
            FORMAT => Ok((bundle, bytes)),
            other => {
                Err(TrustError::Malformed(format!("its format is {other}, this version knows {FORMAT}")))
            }
        }
    }

    /// The file's bytes; the same for the same files.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TrustError> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| TrustError::Malformed(error.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// What its files say.
    pub fn folder(&self) -> Result<Folder, LoadError> {
        Folder::parse(self.files.iter().map(|(name, text)| (name.clone(), text.clone())).collect())
    }
}

impl Trust {
    /// Reads the file of trusted keys. Without one nothing is required, and nobody is trusted.
    pub fn load(path: &Path) -> Result<Trust, TrustError> {
        if !path.exists() {
            return Ok(Trust::default());
        }
        let settings = |why: String| TrustError::Settings { path: path.to_owned(), why };
        let text = String::from_utf8(read(path)?).map_err(|error| settings(error.to_string()))?;
        let trust: Trust =
            toml::from_str(&text).map_err(|error| settings(crate::suggest::improve(error.message())))?;
        for key in &trust.key {
            PublicKey::from_base64(&key.public)
                .map_err(|error| settings(format!("key of {}: {error}", key.name)))?;
        }
        Ok(trust)
    }

    /// Who signed these bytes. `signature` is minisign's file, beside the bundle.
    pub fn signer(&self, bytes: &[u8], signature: &Path) -> Result<Option<&TrustedKey>, TrustError> {
        if !signature.exists() {
            return if self.require_signature { Err(TrustError::Unsigned) } else { Ok(None) };
        }
        let text = String::from_utf8(read(signature)?).map_err(|_| TrustError::NotTrusted)?;
        let signature = Signature::decode(&text).map_err(|_| TrustError::NotTrusted)?;
        let has_signed = |key: &&TrustedKey| {
            let public = PublicKey::from_base64(&key.public);
            public.is_ok_and(|public| public.verify(bytes, &signature, false).is_ok())
        };
        self.key.iter().find(has_signed).map(Some).ok_or(TrustError::NotTrusted)
    }
}

/// Whether the signer may change these tiers.
pub fn may_change(signer: &TrustedKey, changed: &BTreeSet<Tier>) -> Result<(), TrustError> {
    match changed.difference(&signer.tiers).next() {
        Some(tier) => Err(TrustError::NotAllowed { signer: signer.name.clone(), tier: *tier }),
        None => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    use std::io::Read;
    let io = |source| TrustError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(TrustError::Malformed(format!("it is larger than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}
