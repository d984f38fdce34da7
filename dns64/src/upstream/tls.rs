//! Who an encrypted upstream has to be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Config, Protocol, Upstream};

/// Why encrypted upstreams cannot be asked, in words for the operator.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// The file of `upstream_ca`.
    #[error("{path}: {reason}; it takes certificates in PEM form", path = path.display())]
    CaFile {
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine has no certificate authorities.
    #[error(
        "no certificate authority on this machine ({0}): install `ca-certificates`, or name a file \
         with dns64.upstream_ca"
    )]
    NoSystemCa(String),
    /// A name after `#` that no certificate can have.
    #[error("the name {name:?} of {upstream} is neither a host name nor an address")]
    Name {
        /// The upstream.
        upstream: Upstream,
        /// As configured.
        name: String,
    },
    /// HTTP needs a host name where the address is IPv6.
    #[error("{0} needs the name in its certificate behind #: HTTP asks for a host by its name")]
    NameNeeded(Upstream),
    /// rustls refuses the protocol versions; never with its defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl TlsError {
    /// The key of the configuration that it is about, which the text does not repeat.
    pub fn key(&self) -> &'static str {
        match self {
            TlsError::CaFile { .. } => "dns64.upstream_ca",
            TlsError::NoSystemCa(_)
            | TlsError::Name { .. }
            | TlsError::NameNeeded(_)
            | TlsError::Setup(_) => "dns64.upstream",
        }
    }
}

/// Whether any upstream is encrypted.
pub(super) fn needs_tls(config: &Config) -> bool {
    let mut upstreams = config.upstream.iter();
    upstreams.any(|u| u.protocol.is_encrypted())
}

/// The name that the upstream's certificate has to hold: that after `#`, or its address.
///
/// # Errors
/// A name that no certificate can have, or a missing one where HTTP needs it.
pub fn server_name(upstream: &Upstream) -> Result<ServerName<'static>, TlsError> {
    if !upstream.name.is_empty() {
        return ServerName::try_from(upstream.name.clone()).map_err(|_| TlsError::Name {
            upstream: upstream.clone(),
            name: upstream.name.clone(),
        });
    }
    if upstream.protocol == Protocol::Https && upstream.addr.is_ipv6() {
        return Err(TlsError::NameNeeded(upstream.clone()));
    }
    Ok(ServerName::from(upstream.addr.ip()))
}

/// Reads the certificate authorities as the pool of upstreams will; for `check`.
///
/// # Errors
/// What is wrong with the file, or with the machine's own.
pub fn check_certificates(ca: Option<&Path>) -> Result<(), TlsError> {
    roots(ca).map(|_| ())
}

/// TLS 1.2 and 1.3, trusting these certificate authorities.
pub(super) fn client_config(roots: Arc<RootCertStore>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let config = builder.with_root_certificates(roots);
    Ok(Arc::new(config.with_no_client_auth()))
}

/// The operator's certificate authorities, or the machine's.
pub(super) fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = store.add_parsable_certificates(found.certs);
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return match added {
            0 if reasons.is_empty() => Err(TlsError::NoSystemCa("none found".into())),
            0 => Err(TlsError::NoSystemCa(reasons.join("; "))),
            _ => Ok(store),
        };
    };
    let failed = |reason: String| TlsError::CaFile {
        path: path.to_owned(),
        reason,
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| failed(e.to_string()))?;
        store.add(certificate).map_err(|e| failed(e.to_string()))?;
    }
    match store.is_empty() {
        true => Err(failed("no certificate in it".into())),
        false => Ok(store),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_named_by_host_or_by_address() {
        let upstream = |protocol, addr: &str, name: &str| Upstream {
            name: name.into(),
            ..Upstream::plain(protocol, addr.parse().unwrap())
        };
        let name = |u: &Upstream| server_name(u).map(|n| n.to_str().into_owned());
        let named = upstream(Protocol::Tls, "192.0.2.53:853", "dns.example");
        assert_eq!(name(&named).unwrap(), "dns.example");
        let bare = upstream(Protocol::Tls, "[2001:db8::53]:853", "");
        assert_eq!(name(&bare).unwrap(), "2001:db8::53");
        let https = upstream(Protocol::Https, "[2001:db8::53]:443", "");
        assert!(matches!(name(&https), Err(TlsError::NameNeeded(_))));
        let wrong = upstream(Protocol::Tls, "192.0.2.53:853", "no name");
        assert!(matches!(name(&wrong), Err(TlsError::Name { .. })));
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let missing = check_certificates(Some(Path::new("/nonexistent/ca.pem"))).unwrap_err();
        assert!(
            missing.to_string().contains("/nonexistent/ca.pem"),
            "{missing}"
        );
        let empty = check_certificates(Some(Path::new("/dev/null"))).unwrap_err();
        assert!(empty.to_string().contains("no certificate"), "{empty}");
    }
}
