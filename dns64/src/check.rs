//! What can be judged before a socket is made, and the words for what is wrong.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use gate64_wire::rfc6052::Pref64;
use hickory_proto::rr::{LowerName, Name};

use crate::config::{Config, Protocol, Upstream};
use crate::listen::serves_both;
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
    #[error("no address to serve: name at least one, such as \"[::]:53\"")]
    NoListen,
    /// No upstream.
    #[error("no resolver to ask: name at least one, such as \"udp://192.0.2.53:53\"")]
    NoUpstream,
    /// No prefix.
    #[error("no prefix: DNS64 needs the translator's")]
    NoPref64,
    /// An upstream is this server.
    #[error(
        "{upstream} is this server itself (it listens on {listen}): questions \
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
        "clients are given the prefix {pref64}, which NAT64 does not serve (nat64.pref64: {}): \
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
    #[error("given more than {CLIENT_POLICIES_MAX} times")]
    TooManyClients,
    /// The operating system has no thread to give for the questions that go upstream.
    #[error("cannot start a thread that answers DNS: {0}")]
    Threads(#[source] io::Error),
    /// The operating system has no thread to give.
    #[error("cannot serve DNS on {addr} over UDP: {source}")]
    Thread {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A name that is none.
    #[error("{name:?} is not a domain name: {reason}")]
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

impl StartError {
    /// The key of the configuration that it is about, which the text does not repeat.
    pub fn key(&self) -> &'static str {
        match self {
            StartError::InUse { protocol, .. } | StartError::Listen { protocol, .. } => {
                match protocol {
                    Protocol::Udp | Protocol::Tcp => "dns64.listen",
                    Protocol::Tls | Protocol::Https => "dns64.tls.listen",
                }
            }
            StartError::NoListen | StartError::Thread { .. } | StartError::Threads(_) => {
                "dns64.listen"
            }
            StartError::NoUpstream
            | StartError::UpstreamIsSelf { .. }
            | StartError::Recursion(_) => "dns64.upstream",
            StartError::NoPref64 => "nat64.pref64",
            StartError::Pem { .. } => "dns64.tls",
            StartError::CertificateKey { .. } => "dns64.tls.key",
            StartError::CertificateName { .. } => "dns64.tls.name",
            StartError::NotServed { .. } | StartError::TooManyClients => "dns64.client",
            StartError::Name { .. } => "dns64.ignore_aaaa_names",
            StartError::Tls(error) => error.key(),
        }
    }
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
        if let Some(listen) = own_listener(config, upstream) {
            return Err(StartError::UpstreamIsSelf {
                upstream: upstream.clone(),
                listen,
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

/// Where a question sent to the upstream would arrive, if that is here.
fn own_listener(config: &Config, upstream: &Upstream) -> Option<SocketAddr> {
    let ip = upstream.addr.ip().to_canonical();
    let is_it = |l: &&SocketAddr| l.ip().to_canonical() == ip && l.port() == upstream.addr.port();
    let named = config.listeners(upstream.protocol).iter().find(is_it);
    let is_here = ip.is_loopback() || ip.is_unspecified();
    named
        .copied()
        .or_else(|| wildcard_listener(config, upstream).filter(|_| is_here))
}

/// The wildcard address of this server at which a question to the upstream would arrive if its
/// address is one of this machine's.
pub fn wildcard_listener(config: &Config, upstream: &Upstream) -> Option<SocketAddr> {
    let all = config.listeners(upstream.protocol);
    let is_ipv4 = upstream.addr.ip().to_canonical().is_ipv4();
    let takes = |listen: &&SocketAddr| {
        let takes_family = listen.is_ipv4() == is_ipv4 || is_ipv4 && serves_both(**listen, all);
        listen.ip().is_unspecified() && listen.port() == upstream.addr.port() && takes_family
    };
    all.iter().find(takes).copied()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_this_server_where_its_family_is_served() {
        for (listen, upstream, is_self) in [
            (&["192.0.2.1:53"][..], "192.0.2.1:53", true),
            (&["192.0.2.1:53"], "192.0.2.1:54", false),
            (&["192.0.2.1:53"], "192.0.2.2:53", false),
            (&["0.0.0.0:53"], "127.0.0.1:53", true),
            (&["0.0.0.0:53"], "[::ffff:127.0.0.1]:53", true),
            (&["0.0.0.0:53"], "[::1]:53", false),
            (&["[::]:53"], "[::1]:53", true),
            (&["[::]:53"], "127.0.0.1:53", true),
            (&["[::]:53"], "127.0.0.1:54", false),
            // IPv4 is served apart, elsewhere.
            (&["[::]:53", "192.0.2.1:53"], "127.0.0.1:53", false),
            (&["[::]:53", "192.0.2.1:54"], "127.0.0.1:53", true),
            (&["[::]:53"], "192.0.2.1:53", false),
        ] {
            let config = Config {
                listen: listen.iter().map(|addr| addr.parse().unwrap()).collect(),
                upstream: vec![Upstream::plain(Protocol::Udp, upstream.parse().unwrap())],
                pref64: vec![Pref64::WELL_KNOWN],
                ..Config::default()
            };
            let found = matches!(check(&config), Err(StartError::UpstreamIsSelf { .. }));
            assert_eq!(found, is_self, "{listen:?} {upstream}");
        }
    }
}
