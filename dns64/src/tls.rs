//! The operator's certificate for DNS over TLS and HTTPS.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};

use crate::check::StartError;
use crate::config::Encrypted;

/// The certificate given to every client; a reload puts a renewed one in.
#[derive(Debug)]
pub(crate) struct Certificate(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// As [`load`].
    pub(crate) fn new(encrypted: &Encrypted) -> Result<Certificate, StartError> {
        Ok(Certificate(ArcSwap::from_pointee(load(encrypted)?)))
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// As [`load`]; the old certificate stays then.
    pub(crate) fn reload(&self, encrypted: &Encrypted) -> Result<(), StartError> {
        self.0.store(Arc::new(load(encrypted)?));
        Ok(())
    }
}

/// Reads the certificate and its key.
///
/// # Errors
/// A file that cannot be read, a key that is another certificate's, a name that is not in it.
pub(crate) fn load(encrypted: &Encrypted) -> Result<CertifiedKey, StartError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&encrypted.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(&encrypted.certificate, &error))?;
    let Some(own) = chain.first() else {
        return Err(unreadable(
            &encrypted.certificate,
            &"it holds no certificate",
        ));
    };
    let parsed = ParsedCertificate::try_from(own)
        .map_err(|error| unreadable(&encrypted.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&encrypted.key)
        .map_err(|error| unreadable(&encrypted.key, &error))?;
    if !encrypted.name.is_empty() {
        let name = ServerName::try_from(encrypted.name.clone());
        let named = name
            .ok()
            .filter(|name| verify_server_name(&parsed, name).is_ok());
        if named.is_none() {
            return Err(StartError::CertificateName {
                path: encrypted.certificate.clone(),
                name: encrypted.name.clone(),
            });
        }
    }
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| {
        StartError::CertificateKey {
            certificate: encrypted.certificate.clone(),
            key: encrypted.key.clone(),
            reason: error.to_string(),
        }
    })
}

/// What is wrong with the certificate's time, which no client overlooks; nothing if the file
/// cannot be read, which loading says.
pub fn certificate_time(encrypted: &Encrypted) -> Option<String> {
    let own = CertificateDer::from_pem_file(&encrypted.certificate).ok()?;
    let parsed = ParsedCertificate::try_from(&own).ok()?;
    let algorithms = default_provider().signature_verification_algorithms.all;
    let (nobody, now) = (RootCertStore::empty(), UnixTime::now());
    // Times are looked at before the issuer, who is not asked about here.
    let judged = verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], now, algorithms);
    let Err(Error::InvalidCertificate(error)) = judged else {
        return None;
    };
    let what = match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("expired at {}", text(not_after))
        }
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}", text(not_before))
        }
        CertificateError::NotValidYet => "is not valid yet".to_owned(),
        _ => return None,
    };
    let path = encrypted.certificate.display();
    Some(format!(
        "the certificate in {path} {what}, and it is {} now: clients refuse it",
        text(now)
    ))
}

fn text(time: UnixTime) -> impl Display {
    let since = Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since)
}

fn unreadable(path: &Path, reason: &dyn Display) -> StartError {
    StartError::Pem {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
