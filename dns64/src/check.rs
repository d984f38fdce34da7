//! What can be judged before a socket is made, and the words for what is wrong.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use gate64_wire::rfc6052::Pref64;
use hickory_proto::rr::{LowerName, Name};

use crate::config::{Config, Protocol, Upstream};
use crate::synthesis::Policy;
use crate::tls;
use crate::upstream::{TlsError, server_name};

/// Client tables; each has a number of one octet.
const CLIENT_POLICIES_MAX: usize = 200;

/// Why the server does not start, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken.
    #[error(
        "cannot serve DNS on {addr} over {}: the address is in use. `ss -lnp 'sport = :{}'` shows \
         by whom. If it is systemd-resolved, set `DNSStubListener=no` in \
         /etc/systemd/resolved.conf and restart it, or let dns64.listen name an address of \
         this machine other than 127.0.0.53", protocol.name(), addr.port()
    )]
    InUse {
        /// The address.
        addr: SocketAddr,
        /// UDP or TCP.
        protocol: Protocol,
    },
    /// The socket cannot be made for another reason.
    #[error("cannot serve DNS on {addr} over {}: {source}{}", protocol.name(), advice(source))]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// UDP or TCP.
        protocol: Protocol,
        /// What the kernel said.
        source: io::Error,
    },
    /// No address to serve.
    #[error("dns64.listen is empty: name at least one address, such as \"[::]:53\"")]
    NoListen,
    /// No upstream.
    #[error("dns64.upstream is empty: name at least one resolver, such as \"udp://192.0.2.53:53\"")]
    NoUpstream,
    /// No prefix.
    #[error("nat64.pref64 is empty: DNS64 needs the translator's prefix")]
    NoPref64,
    /// An upstream is this server.
    #[error(
        "dns64.upstream {upstream} is this server itself (it listens on {listen}): questions \
         would go round in a circle; name another resolver"
    )]
    UpstreamIsSelf {
        /// The upstream.
        upstream: Upstream,
        /// The address it falls under.
        listen: SocketAddr,
    },
    /// A certificate or key that cannot be used.
    #[error("cannot use {}: {reason}; it must be a PEM file that gate64 may read", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key that is not the certificate's.
    #[error(
        "the key in {} does not belong to the certificate in {} ({reason}): \
         dns64.tls.certificate must begin with the server's own certificate",
        key.display(), certificate.display()
    )]
    CertificateKey {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        reason: String,
    },
    /// A certificate for other names.
    #[error(
        "the certificate in {} is not for {name:?} (dns64.tls.name): clients that expect this name \
         would refuse it", path.display()
    )]
    CertificateName {
        /// The certificate's file.
        path: PathBuf,
        /// As configured.
        name: String,
    },
    /// A prefix for some clients that is none of the translator's.
    #[error(
        "dns64.client gives the prefix {pref64}, which NAT64 does not serve (nat64.pref64: {}): \
         packets to it would go nowhere",
        joined(served)
    )]
    NotServed {
        /// As configured for the clients.
        pref64: Pref64,
        /// The translator's.
        served: Vec<Pref64>,
    },
    /// More client tables than there are numbers for.
    #[error("dns64.client is given more than {CLIENT_POLICIES_MAX} times")]
    TooManyClients,
    /// The operating system has no thread to give.
    #[error("cannot serve DNS on {addr} over UDP: {source}")]
    Thread {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A name that is none.
    #[error("dns64.ignore_aaaa_names holds {name:?}, which is not a domain name: {reason}")]
    Name {
        /// As configured.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The recursor.
    #[error("names cannot be looked up from the root down: {0}")]
    Recursion(String),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn joined(prefixes: &[Pref64]) -> String {
    let texts: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ". Ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => ". This machine does not have the address (`ip addr`)",
        _ => "",
    }
}

/// Everything that can be judged without a socket.
///
/// # Errors
/// What is wrong, in words for the operator.
pub fn check(config: &Config) -> Result<(), StartError> {
    checked(config).map(drop)
}

/// As [`check`]; the policies that the configuration means.
pub(crate) fn checked(config: &Config) -> Result<Vec<Policy>, StartError> {
    if config.listen.is_empty() {
        return Err(StartError::NoListen);
    }
    if config.upstream.is_empty() && config.recursive.is_none() {
        return Err(StartError::NoUpstream);
    }
    if config.pref64.is_empty() {
        return Err(StartError::NoPref64);
    }
    for upstream in &config.upstream {
        let mut listeners = config.listeners(upstream.protocol).iter();
        if let Some(listen) = listeners.find(|l| reaches(upstream.addr, **l)) {
            return Err(StartError::UpstreamIsSelf {
                upstream: upstream.clone(),
                listen: *listen,
            });
        }
        if upstream.protocol.is_encrypted() {
            server_name(upstream)?;
        }
    }
    if let Some(encrypted) = &config.encrypted {
        tls::load(encrypted)?;
    }
    policies(config)
}

/// Whether a question sent to the upstream would arrive at the listening address.
fn reaches(upstream: SocketAddr, listen: SocketAddr) -> bool {
    let ip = upstream.ip().to_canonical();
    upstream.port() == listen.port()
        && (ip == listen.ip().to_canonical()
            || listen.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified()))
}

/// The policy for everyone, then those of the client tables.
fn policies(config: &Config) -> Result<Vec<Policy>, StartError> {
    let everyone = policy(config)?;
    if config.client.len() > CLIENT_POLICIES_MAX {
        return Err(StartError::TooManyClients);
    }
    let mut policies = vec![everyone.clone()];
    for client in &config.client {
        if let Some(pref64) = client.pref64.iter().find(|p| !config.pref64.contains(p)) {
            return Err(StartError::NotServed {
                pref64: *pref64,
                served: config.pref64.clone(),
            });
        }
        let mut own = everyone.clone();
        own.synthesize = client.synthesize.unwrap_or(everyone.synthesize);
        if !client.pref64.is_empty() {
            own.pref64 = client.pref64.clone();
        }
        policies.push(own);
    }
    Ok(policies)
}

fn policy(config: &Config) -> Result<Policy, StartError> {
    let names = config.ignore_aaaa_names.iter().map(|text| {
        let mut name = Name::from_utf8(text).map_err(|error| StartError::Name {
            name: text.clone(),
            reason: error.to_string(),
        })?;
        name.set_fqdn(true);
        Ok(LowerName::new(&name))
    });
    Ok(Policy {
        pref64: config.pref64.clone(),
        wkp_strict: config.wkp_strict,
        synthesize: config.synthesize,
        exclude_aaaa: config.exclude_aaaa.clone(),
        exclude_a: config.exclude_a.clone(),
        ignore_aaaa_names: names.collect::<Result<_, StartError>>()?,
        on_failure: config.on_failure,
    })
}
