//! Sockets and life: start, reload, stop.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hickory_proto::rr::{LowerName, Name, RecordType};
use socket2::Socket;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::answer::{Question, rcode_name};
use crate::asker::Asker;
use crate::cache::{Cache, CacheState};
use crate::check::{StartError, checked};
use crate::clients::Clients;
use crate::clock::Clock;
use crate::config::{Config, Protocol};
use crate::front::{Backs, Front};
use crate::handler::{Handler, Streams};
use crate::https::Https;
use crate::listen::{Bound, Sockets, failed};
use crate::metrics::Metrics;
use crate::neighbours::Neighbours;
use crate::resolver::{Kept, Resolver};
use crate::responder::{ClientQuestion, Responder};
use crate::synthesis::Policy;
use crate::tls::Certificate;
use crate::trace::Trace;
use crate::upstream::{Pool, UpstreamState};

/// Answers queued for one TCP client.
const TCP_ANSWERS_MAX: usize = 64;
/// How often the kernel's routes are read, while they decide who is answered.
const NEIGHBOURS_INTERVAL: Duration = Duration::from_secs(15);
/// How often idle sockets to upstreams are closed that have lived for as long as they may, a second too.
const SOCKETS_INTERVAL: Duration = Duration::from_secs(1);

/// The running server. Its tasks live on the tokio runtime that [`Server::start`] ran in, its UDP
/// threads beside it.
pub struct Server {
    handler: Arc<Handler>,
    neighbours: Arc<Neighbours>,
    /// What is done from time to time, as long as this is there.
    _watches: JoinSet<()>,
    listeners: Mutex<HashMap<SocketAddr, Listener>>,
    encrypted: Mutex<Option<Encrypting>>,
    backs: Backs,
    config: Mutex<Config>,
}

/// What serves TLS and HTTPS.
struct Encrypting {
    streams: hickory_server::Server<Streams>,
    /// The services of HTTPS, which end with this.
    https: JoinSet<()>,
    certificate: Arc<Certificate>,
}

/// What serves one address.
struct Listener {
    streams: hickory_server::Server<Streams>,
    front: Front,
}

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
        let policies = checked(&config)?;
        let cache = Cache::new(&config.limits, clock.clone());
        let kept = Arc::new(Kept::new(cache, &config.limits, ready));
        let neighbours = Arc::new(Neighbours::private());
        let made = Made {
            pool: Pool::new(&config, clock.clone(), None)?,
            kept: &kept,
            clock: &clock,
            neighbours: &neighbours,
            trust: kept.trust(),
        };
        let responder = responder(&config, policies, made)?;
        let handler = Handler::new(responder, kept, clock, &config.limits);
        let threads = sockets.plain.iter().map(|bound| bound.udp.len()).max();
        let backs = Backs::start(threads.unwrap_or(1));
        let backs = backs.map_err(StartError::Threads)?;
        let handler = Arc::new(handler);
        let mut watches = JoinSet::new();
        watches.spawn(watch_neighbours(neighbours.clone()));
        watches.spawn(watch_sockets(handler.clone()));
        let server = Server {
            handler,
            _watches: watches,
            neighbours,
            listeners: Mutex::default(),
            encrypted: Mutex::default(),
            backs,
            config: Mutex::new(config.clone()),
        };
        for bound in sockets.plain {
            server.listen(bound, &config)?;
        }
        server.listen_encrypted(sockets.tls, sockets.https, &config)?;
        Ok(server)
    }

    /// Takes over another configuration. Addresses that stay keep their sockets; the cache is
    /// kept unless the upstreams or those who vouch for them changed. The certificate is read again. Threads, bounds on memory
    /// (`limits`) and the addresses of TLS and HTTPS stay as they were at start.
    ///
    /// # Errors
    /// As [`Server::start`]; the old configuration stays then.
    pub fn reload(&self, config: Config) -> Result<(), StartError> {
        let policies = checked(&config)?;
        let mut current = self.config.lock().unwrap_or_else(|e| e.into_inner());
        let clock = &self.handler.clock;
        let before = self.handler.responder.load_full();
        let before = before.resolver.asker().pool();
        let pool = Pool::new(&config, clock.clone(), Some(before))?;
        let is_trusted_otherwise = current.dnssec != config.dnssec
            || current.trust_anchors != config.trust_anchors
            || !pool.has_roots_of(before);
        let is_asked_otherwise =
            current.upstream != config.upstream || current.recursive != config.recursive;
        let is_other = is_asked_otherwise || is_trusted_otherwise;
        let kept = &self.handler.kept;
        let trust = kept.trust().wrapping_add(u32::from(is_other));
        let made = Made {
            pool,
            kept,
            clock,
            neighbours: &self.neighbours,
            trust,
        };
        let responder = responder(&config, policies, made)?;
        if let (Some(now), Some(encrypted)) = (&*self.encrypted(), &config.encrypted) {
            now.certificate.reload(encrypted)?;
        }
        let served: Vec<SocketAddr> = self.listeners().keys().copied().collect();
        for addr in config.listen.iter().filter(|addr| !served.contains(addr)) {
            self.listen(Bound::new(*addr, &config)?, &config)?;
        }
        self.listeners().retain(|addr, listener| {
            let stays = config.listen.contains(addr);
            if !stays {
                listener.streams.shutdown_token().cancel();
                listener.front.stop();
            }
            stays
        });
        if is_other {
            kept.trust_anew(trust);
        }
        self.handler.replace(responder);
        *current = config;
        Ok(())
    }

    /// Stops to answer and lets the sockets go.
    pub async fn stop(&self) {
        let encrypted = self.encrypted().take();
        if let Some(mut encrypted) = encrypted {
            encrypted.https.shutdown().await;
            if let Err(error) = encrypted.streams.shutdown_gracefully().await {
                tracing::debug!(%error, "a DNS listener ended");
            }
        }
        let listeners: Vec<Listener> = self.listeners().drain().map(|(_, l)| l).collect();
        for Listener { mut streams, front } in listeners {
            if let Err(error) = streams.shutdown_gracefully().await {
                tracing::debug!(%error, "a DNS listener ended");
            }
            if let Err(error) = tokio::task::spawn_blocking(|| front.join()).await {
                tracing::debug!(%error, "a DNS listener ended");
            }
        }
    }

    /// What an AAAA question for the name would be answered to this client (to a client on this
    /// machine, if none is given), and why: one line per step.
    pub async fn explain(&self, name: &str, client: Option<IpAddr>) -> Vec<String> {
        let name = match Name::from_utf8(name) {
            Ok(mut name) => {
                name.set_fqdn(true);
                LowerName::new(&name)
            }
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.trim_end_matches([':', ' ']);
                return vec![format!("{name:?} is not a domain name: {reason}")];
            }
        };
        let client = client.unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST));
        let responder = self.handler.responder.load_full();
        let Some(class) = responder.clients.class(client) else {
            return vec![format!(
                "{client} is not served (dns64.allow_from): REFUSED; --client names another client"
            )];
        };
        let asked = ClientQuestion {
            question: Question {
                name,
                qtype: RecordType::AAAA,
                dnssec_ok: false,
                checking_disabled: false,
            },
            class,
        };
        let mut trace = Trace::kept();
        let (answer, outcome) = responder.answer(asked, &mut trace).await;
        let mut steps = trace.into_steps();
        let records = match answer.answers.len() {
            1 => "1 record".to_owned(),
            n => format!("{n} records"),
        };
        steps.push(format!(
            "answer: {}, {records} ({})",
            rcode_name(answer.rcode),
            outcome.name()
        ));
        steps
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.handler.kept.metrics
    }

    /// How full the cache is.
    pub fn cache_state(&self) -> CacheState {
        self.handler.kept.cache.state()
    }

    /// What is known of each upstream.
    pub fn upstreams(&self) -> Vec<UpstreamState> {
        let responder = self.handler.responder.load();
        responder.resolver.asker().pool().states()
    }

    /// The name of a thread that ended by itself, which is a bug: what it served is served no
    /// more, and only another process serves it again.
    pub fn failed_thread(&self) -> Option<String> {
        let listeners = self.listeners();
        let mut fronts = listeners.values().map(|listener| &listener.front);
        let failed = fronts.find_map(Front::failed_thread);
        failed.or_else(|| self.backs.failed_thread())
    }

    /// The addresses served.
    pub fn listen_addrs(&self) -> Vec<SocketAddr> {
        self.listeners().keys().copied().collect()
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<SocketAddr, Listener>> {
        self.listeners.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn encrypted(&self) -> MutexGuard<'_, Option<Encrypting>> {
        self.encrypted.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn listen_encrypted(
        &self,
        tls: Vec<(SocketAddr, Socket)>,
        https: Vec<(SocketAddr, Socket)>,
        config: &Config,
    ) -> Result<(), StartError> {
        let Some(encrypted) = &config.encrypted else {
            return Ok(());
        };
        let certificate = Arc::new(Certificate::new(encrypted)?);
        let mut streams = hickory_server::Server::new(Streams(self.handler.clone()));
        let mut services = JoinSet::new();
        let idle = config.timeouts.tcp_idle;
        for (addr, socket) in tls {
            TcpListener::from_std(socket.into())
                .and_then(|tcp| streams.register_tls_listener(tcp, idle, certificate.clone()))
                .map_err(failed(addr, Protocol::Tls))?;
        }
        for (addr, socket) in https {
            let path = encrypted.https_path.clone();
            let service = Https::new(certificate.clone(), path, idle, self.handler.clone());
            let listener = TcpListener::from_std(socket.into());
            let (service, listener) = service
                .and_then(|service| Ok((service, listener?)))
                .map_err(failed(addr, Protocol::Https))?;
            services.spawn(service.serve(listener));
        }
        *self.encrypted() = Some(Encrypting {
            streams,
            https: services,
            certificate,
        });
        Ok(())
    }

    fn listen(&self, bound: Bound, config: &Config) -> Result<(), StartError> {
        let Bound { addr, tcp, udp } = bound;
        let tcp = TcpListener::from_std(tcp.into()).map_err(failed(addr, Protocol::Tcp))?;
        let mut streams = hickory_server::Server::new(Streams(self.handler.clone()));
        streams.register_listener(tcp, config.timeouts.tcp_idle, TCP_ANSWERS_MAX);
        let octets_max = config.limits.wire_cache_octets_max;
        let front = Front::start(udp, &self.handler, &self.backs, octets_max)
            .map_err(|source| StartError::Thread { addr, source })?;
        self.listeners().insert(addr, Listener { streams, front });
        Ok(())
    }
}

/// What a responder is made of beside its configuration.
struct Made<'a> {
    pool: Pool,
    kept: &'a Arc<Kept>,
    clock: &'a Clock,
    neighbours: &'a Arc<Neighbours>,
    /// Counts configurations that trust others.
    trust: u32,
}

fn responder(
    config: &Config,
    policies: Vec<Policy>,
    made: Made<'_>,
) -> Result<Responder, StartError> {
    let Made {
        pool,
        kept,
        clock,
        neighbours,
        trust,
    } = made;
    refresh(neighbours);
    let asker = Asker::new(config, pool, kept.clone(), clock.clone(), trust);
    let asker = asker.map_err(StartError::Recursion)?;
    let resolver = Arc::new(Resolver::new(config, asker, kept.clone()));
    let clients = Clients::new(config, neighbours.clone());
    Ok(Responder::new(
        config,
        policies,
        clients,
        resolver,
        kept.clone(),
    ))
}

fn refresh(neighbours: &Neighbours) {
    if let Err(error) = neighbours.refresh() {
        tracing::warn!(
            %error,
            "cannot read this machine's routes: of the clients that dns64.allow_from does not name, \
             only private ones are answered"
        );
    }
}

/// Follows the routes, which come and go.
async fn watch_neighbours(neighbours: Arc<Neighbours>) {
    let mut turn = tokio::time::interval(NEIGHBOURS_INTERVAL);
    // The first one is at once, and was done.
    turn.tick().await;
    loop {
        turn.tick().await;
        if let Err(error) = neighbours.refresh() {
            tracing::debug!(%error, "cannot read this machine's routes");
        }
    }
}

/// Closes sockets to the upstreams of the present configuration, when no questions come that would.
async fn watch_sockets(handler: Arc<Handler>) {
    let mut turn = tokio::time::interval(SOCKETS_INTERVAL);
    loop {
        turn.tick().await;
        let responder = handler.responder.load_full();
        responder.resolver.asker().pool().close_old_sockets();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;
    use crate::config::Upstream;

    const SERVFAIL: u8 = 2;

    /// A loopback address that no other run uses at this time.
    fn own_addr() -> SocketAddr {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        (Ipv4Addr::new(127, high | 64, low, 254), 5300).into()
    }

    #[tokio::test]
    async fn a_question_whose_thread_is_gone_is_refused_and_the_thread_is_named() {
        let config = Config {
            listen: vec![own_addr()],
            upstream: vec![Upstream::plain(Protocol::Udp, ([192, 0, 2, 53], 53).into())],
            pref64: vec!["64:ff9b::/96".parse().unwrap()],
            ..Config::default()
        };
        let mut server = Server::start(config.clone(), Arc::default()).unwrap();
        assert_eq!(server.failed_thread(), None);
        server.stop().await;
        server.backs = Backs::dead();
        let bound = Bound::new(own_addr(), &config).unwrap();
        server.listen(bound, &config).unwrap();
        assert_eq!(server.failed_thread().as_deref(), Some("dns-ask-0"));
        let client = UdpSocket::bind((own_addr().ip(), 0)).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let query = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x04test\0\0\x01\0\x01";
        client.send_to(query, own_addr()).unwrap();
        let mut answer = [0; 512];
        let len = client.recv(&mut answer).expect("an answer in time");
        assert_eq!(answer[..2], query[..2]);
        assert_eq!(answer[3] & 0x0f, SERVFAIL);
        assert_eq!(answer[12..len], query[12..]);
    }
}
