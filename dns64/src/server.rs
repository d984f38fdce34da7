//! Sockets and life: start, reload, stop.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use hickory_proto::rr::{LowerName, Name, RecordType};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use crate::answer::Question;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{Config, Dnssec, Protocol, Upstream};
use crate::handler::Handler;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::resolver::{Kept, Resolver};
use crate::responder::{ClientQuestion, Responder};
use crate::synthesis::Policy;
use crate::trace::Trace;

/// Answers queued for one TCP client.
const TCP_ANSWERS_MAX: usize = 64;
const TCP_BACKLOG: i32 = 1024;
const UDP_BUFFER_BYTES: usize = 4 << 20;

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
        "dns64.upstream {upstream} is this server itself (dns64.listen {listen}): questions \
         would go round in a circle; name another resolver"
    )]
    UpstreamIsSelf {
        /// The upstream.
        upstream: Upstream,
        /// The address it falls under.
        listen: SocketAddr,
    },
    /// A name that is none.
    #[error("dns64.ignore_aaaa_names holds {name:?}, which is not a domain name: {reason}")]
    Name {
        /// As configured.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A feature that this build lacks.
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
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

/// The running server. Its tasks live on the tokio runtime that [`Server::start`] ran in.
pub struct Server {
    responder: Arc<ArcSwap<Responder>>,
    kept: Arc<Kept>,
    clock: Clock,
    listeners: Mutex<HashMap<SocketAddr, Listener>>,
    config: Mutex<Config>,
}

type Listener = hickory_server::Server<Handler>;

impl Server {
    /// Checks the configuration, binds every address and begins to answer. `ready` says whether
    /// the translator takes traffic: while it is false, nothing is synthesised.
    ///
    /// # Errors
    /// What is wrong with the configuration, or the address that cannot be served.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: Config, ready: Arc<AtomicBool>) -> Result<Server, StartError> {
        Server::start_with_clock(config, ready, Clock::real())
    }

    /// As [`Server::start`], on sockets that [`Sockets::bind`] took for the same configuration.
    ///
    /// # Errors
    /// As [`Server::start`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_on(
        sockets: Sockets,
        config: Config,
        ready: Arc<AtomicBool>,
    ) -> Result<Server, StartError> {
        Server::start_parts(sockets, config, ready, Clock::real())
    }

    /// As [`Server::start`], with the clock by which TTLs age.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with_clock(
        config: Config,
        ready: Arc<AtomicBool>,
        clock: Clock,
    ) -> Result<Server, StartError> {
        Server::start_parts(Sockets::bind(&config)?, config, ready, clock)
    }

    fn start_parts(
        sockets: Sockets,
        config: Config,
        ready: Arc<AtomicBool>,
        clock: Clock,
    ) -> Result<Server, StartError> {
        let policy = check(&config)?;
        let cache = Cache::new(&config.limits, clock.clone());
        let kept = Arc::new(Kept::new(cache, &config.limits, ready));
        let pool = Pool::new(&config, clock.clone());
        let resolver = Arc::new(Resolver::new(&config, pool, kept.clone()));
        let responder = Responder::new(&config, policy, resolver, kept.clone());
        let server = Server {
            responder: Arc::new(ArcSwap::from_pointee(responder)),
            kept,
            clock,
            listeners: Mutex::default(),
            config: Mutex::new(config.clone()),
        };
        for bound in sockets.0 {
            server.listen(bound, &config)?;
        }
        Ok(server)
    }

    /// Takes over another configuration. Addresses that stay keep their sockets; the cache is
    /// kept unless the upstreams changed. Bounds on memory (`limits`) stay as they were at start.
    ///
    /// # Errors
    /// As [`Server::start`]; the old configuration stays then.
    pub fn reload(&self, config: Config) -> Result<(), StartError> {
        let policy = check(&config)?;
        let served: Vec<SocketAddr> = self.listeners().keys().copied().collect();
        for addr in config.listen.iter().filter(|addr| !served.contains(addr)) {
            self.listen(Bound::new(*addr, &config.listen)?, &config)?;
        }
        self.listeners().retain(|addr, listener| {
            let stays = config.listen.contains(addr);
            if !stays {
                listener.shutdown_token().cancel();
            }
            stays
        });
        let mut current = self.config.lock().unwrap_or_else(|e| e.into_inner());
        if current.upstream != config.upstream {
            self.kept.cache.clear();
        }
        let pool = Pool::new(&config, self.clock.clone());
        let resolver = Arc::new(Resolver::new(&config, pool, self.kept.clone()));
        let responder = Responder::new(&config, policy, resolver, self.kept.clone());
        self.responder.store(Arc::new(responder));
        *current = config;
        Ok(())
    }

    /// Stops to answer and lets the sockets go.
    pub async fn stop(&self) {
        let listeners: Vec<Listener> = self.listeners().drain().map(|(_, l)| l).collect();
        for mut listener in listeners {
            if let Err(error) = listener.shutdown_gracefully().await {
                tracing::debug!(%error, "a DNS listener ended");
            }
        }
    }

    /// What an AAAA question for the name would be answered, and why: one line per step.
    pub async fn explain(&self, name: &str) -> Vec<String> {
        let name = match Name::from_utf8(name) {
            Ok(mut name) => {
                name.set_fqdn(true);
                LowerName::new(&name)
            }
            Err(error) => return vec![format!("{name:?} is not a domain name: {error}")],
        };
        let asked = ClientQuestion {
            question: Question {
                name,
                qtype: RecordType::AAAA,
                dnssec_ok: false,
                checking_disabled: false,
            },
            client: IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        };
        let mut trace = Trace::kept();
        let (answer, outcome) = self.responder.load_full().answer(asked, &mut trace).await;
        let mut steps = trace.into_steps();
        let records = answer.answers.len();
        steps.push(format!(
            "answer: {}, {records} records ({})",
            answer.rcode,
            outcome.name()
        ));
        steps
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.kept.metrics
    }

    /// Answers in the cache.
    pub fn cache_entries(&self) -> usize {
        self.kept.cache.len()
    }

    /// Each upstream, and whether it answers.
    pub fn upstreams(&self) -> Vec<(Upstream, bool)> {
        self.responder.load().resolver.upstreams()
    }

    /// The addresses served.
    pub fn listen_addrs(&self) -> Vec<SocketAddr> {
        self.listeners().keys().copied().collect()
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Listener>> {
        self.listeners.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn listen(&self, bound: Bound, config: &Config) -> Result<(), StartError> {
        let addr = bound.addr;
        let (tcp, udp) = bound.into_tokio()?;
        let mut listener = hickory_server::Server::new(Handler {
            responder: self.responder.clone(),
            kept: self.kept.clone(),
            client_in_flight_max: config.limits.client_in_flight_max,
        });
        listener.register_listener(tcp, config.timeouts.tcp_idle, TCP_ANSWERS_MAX);
        listener.register_socket(udp);
        self.listeners().insert(addr, listener);
        Ok(())
    }
}

/// Everything that can be judged without a socket.
fn check(config: &Config) -> Result<Policy, StartError> {
    if config.listen.is_empty() {
        return Err(StartError::NoListen);
    }
    if config.upstream.is_empty() {
        return Err(StartError::NoUpstream);
    }
    if config.pref64.is_empty() {
        return Err(StartError::NoPref64);
    }
    for upstream in &config.upstream {
        if let Some(listen) = config.listen.iter().find(|l| reaches(upstream.addr, **l)) {
            return Err(StartError::UpstreamIsSelf {
                upstream: upstream.clone(),
                listen: *listen,
            });
        }
        match upstream.protocol {
            Protocol::Udp | Protocol::Tcp => {}
            Protocol::Tls => return Err(StartError::Unsupported("a tls:// upstream")),
            Protocol::Https => return Err(StartError::Unsupported("an https:// upstream")),
        }
    }
    if config.dnssec == Dnssec::Validate {
        return Err(StartError::Unsupported("dns64.dnssec = \"validate\""));
    }
    policy(config)
}

/// Whether a question sent to the upstream would arrive at the listening address.
fn reaches(upstream: SocketAddr, listen: SocketAddr) -> bool {
    let ip = upstream.ip().to_canonical();
    upstream.port() == listen.port()
        && (ip == listen.ip().to_canonical()
            || listen.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified()))
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
        ignore_aaaa_names: names.collect::<Result<_, _>>()?,
        on_failure: config.on_failure,
    })
}

/// The sockets of every address to serve, taken before anything that the process would have to
/// undo. Questions wait in them until [`Server::start_on`].
#[derive(Debug)]
pub struct Sockets(Vec<Bound>);

impl Sockets {
    /// Checks the configuration and binds every address.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn bind(config: &Config) -> Result<Sockets, StartError> {
        check(config)?;
        let bound = config.listen.iter();
        let bound = bound.map(|addr| Bound::new(*addr, &config.listen));
        Ok(Sockets(bound.collect::<Result<_, _>>()?))
    }
}

/// The two sockets of one address.
#[derive(Debug)]
struct Bound {
    addr: SocketAddr,
    tcp: Socket,
    udp: Socket,
}

impl Bound {
    fn new(addr: SocketAddr, all: &[SocketAddr]) -> Result<Bound, StartError> {
        Ok(Bound {
            addr,
            tcp: bind_tcp(addr, all).map_err(failed(addr, Protocol::Tcp))?,
            udp: bind_udp(addr, all).map_err(failed(addr, Protocol::Udp))?,
        })
    }

    fn into_tokio(self) -> Result<(TcpListener, UdpSocket), StartError> {
        let tcp = TcpListener::from_std(self.tcp.into());
        let udp = UdpSocket::from_std(self.udp.into());
        Ok((
            tcp.map_err(failed(self.addr, Protocol::Tcp))?,
            udp.map_err(failed(self.addr, Protocol::Udp))?,
        ))
    }
}

fn failed(addr: SocketAddr, protocol: Protocol) -> impl FnOnce(io::Error) -> StartError {
    move |source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse { addr, protocol },
        _ => StartError::Listen {
            addr,
            protocol,
            source,
        },
    }
}

fn bind_tcp(addr: SocketAddr, all: &[SocketAddr]) -> io::Result<Socket> {
    let socket = socket(addr, Type::STREAM, all)?;
    // Connections of a server before us, still in TIME_WAIT, do not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket)
}

fn bind_udp(addr: SocketAddr, all: &[SocketAddr]) -> io::Result<Socket> {
    let socket = socket(addr, Type::DGRAM, all)?;
    socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
    socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// `[::]` serves IPv4 as well, unless an IPv4 address has the same port.
fn socket(addr: SocketAddr, kind: Type, all: &[SocketAddr]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    if addr.is_ipv6() {
        let ipv4_apart = all.iter().any(|a| a.is_ipv4() && a.port() == addr.port());
        socket.set_only_v6(ipv4_apart)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
