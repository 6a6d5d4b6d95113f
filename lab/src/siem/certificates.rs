//! Certificate authorities and what they sign.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use std::path::{Path, PathBuf};

/// An authority that signs certificates into a folder.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    /// Its own certificate.
    pub ca: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, whose own certificate is `NAME.pem` in the folder.
    pub fn new(folder: &Path, name: &str) -> Result<Authority> {
        let mut params = params(name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let ca = folder.join(format!("{name}.pem"));
        std::fs::write(&ca, params.self_signed(&key)?.pem())?;
        Ok(Authority { issuer: Issuer::new(params, key), folder: folder.to_owned(), ca })
    }
    /// A certificate that is good for years, or one that was.
    pub fn sign(&self, file: &str, name: &str, expired: bool) -> Result<Pair> {
        let mut params = params(name, &[name, "localhost", "127.0.0.1"])?;
        if expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate()?;
        let pair = Pair {
            cert: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        std::fs::write(&pair.cert, params.signed_by(&key, &self.issuer)?.pem())?;
        std::fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }
}

fn params(name: &str, alternatives: &[&str]) -> Result<CertificateParams> {
    let alternatives: Vec<String> = alternatives.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(alternatives)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
