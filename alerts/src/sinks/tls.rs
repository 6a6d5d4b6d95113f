//! TLS: who the receiver may be, and who we are.
//!
//! *Does*: reads the CA, our certificate and our key from PEM files, each time a sink is opened: a renewed certificate needs no restart.
//! *Trusts*: only what the CA file of the sink has signed; there is no built-in list of CAs.
//! *Never*: goes on without a verified certificate.

use super::SinkError;
use crate::config::TlsConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub(crate) struct TlsFileError {
    /// The key in the configuration: `ca`, `cert`, `key`.
    pub(crate) key: &'static str,
    path: PathBuf,
    problem: String,
}

/// Certificates and keys, read.
pub(crate) struct Identity {
    pub(crate) ca: Vec<CertificateDer<'static>>,
    /// Our certificate with those above it, and its key.
    pub(crate) own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// Reads the files.
pub(crate) fn load(config: &TlsConfig) -> Result<Identity, TlsFileError> {
    let ca = config.ca.as_deref().map(|path| certificates("ca", path)).transpose()?.unwrap_or_default();
    let own = match (&config.cert, &config.key) {
        (Some(cert), Some(path)) => {
            let key = PrivateKeyDer::from_pem_file(path).map_err(|error| file_error("key", path, error))?;
            Some((certificates("cert", cert)?, key))
        }
        _ => None,
    };
    Ok(Identity { ca, own })
}

/// What rustls needs. Checks that the CA can be used and that the key is the certificate's.
pub(crate) fn client(config: &TlsConfig) -> Result<Arc<ClientConfig>, TlsFileError> {
    let identity = load(config)?;
    let mut roots = RootCertStore::empty();
    let ca = config.ca.clone().unwrap_or_default();
    for certificate in identity.ca {
        roots.add(certificate).map_err(|error| file_error("ca", &ca, error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| file_error("ca", &ca, error))?
        .with_root_certificates(roots);
    let cert = config.cert.clone().unwrap_or_default();
    let client = match identity.own {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| file_error("cert", &cert, error))?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(client))
}

/// Whether waiting helps: not where one side does not accept the other's certificate.
pub(crate) fn failed(doing: &str, error: &io::Error) -> SinkError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(tls) => rejected(doing, tls),
        None => SinkError::io(doing, error),
    }
}

/// The same for an error that is TLS's own.
pub(crate) fn rejected(doing: &str, error: &rustls::Error) -> SinkError {
    let text = match error {
        rustls::Error::InvalidCertificate(_) => {
            format!("{doing}: its certificate is not accepted: {error}")
        }
        rustls::Error::AlertReceived(alert) if is_about_certificates(*alert) => {
            format!("{doing}: it does not accept our certificate: {error}")
        }
        other => return SinkError::Later(format!("{doing}: {other}")),
    };
    SinkError::Refused(text)
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if all.is_empty() => Err(file_error(key, path, "there is no certificate in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(file_error(key, path, error)),
    }
}

fn file_error(key: &'static str, path: &Path, problem: impl std::fmt::Display) -> TlsFileError {
    TlsFileError { key, path: path.to_owned(), problem: problem.to_string() }
}
