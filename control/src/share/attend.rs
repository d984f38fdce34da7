//! The thread beside the gateway: advertises the network while the translator serves, answers
//! DHCP, follows the upstream's address, and shows a line of status.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gate64_dataplane::counters;
use gate64_dns64::Synthesize;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, sleep_until};

use super::beside::Beside;
use super::names::Names;
use super::native::Native;
use super::network::Kind;
use super::ra::message;
use super::ra::schedule::{Due, Schedule};
use super::ra::socket::{RaSocket, Received};
use super::ra::{Health, Link as RaLink, Passing, announcement};
use super::random::Random;
use super::status::{Line, Status};
use super::thread::{Ended, Signals, failed};
use super::{Common, dhcpv4, dhcpv6, proxy, setup, stale};
use crate::exit::Failure;
use crate::netlink::kernel::{Address, Kernel, Link};
use crate::netlink::monitor::{Change, Monitor};

/// How often health is looked at: what a failure costs before it is told.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A translator that does not serve for less than this is not announced as broken: it starts anew
/// with another address, and the next advertisement may come only 3 s later.
const BROKEN_AFTER: Duration = Duration::from_secs(1);
/// Looks between two readings of the host's resolvers.
const LOOKS_PER_READING: u32 = 25;
/// Looks between two counts of the clients.
const LOOKS_PER_COUNT: u32 = 5;
/// The problem of a gateway that is about to serve.
const STARTS: &str = "starts";
/// Changes that come within this time are read together.
const QUIET: Duration = Duration::from_millis(10);
/// A translator that does not serve by then is announced as broken, for hosts that know it from
/// before.
const PATIENCE: Duration = Duration::from_secs(10);

/// The upstream while it has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upstream {
    /// Its address.
    pub ipv4: Ipv4Addr,
    /// The kernel's index of the interface: another one is another interface.
    pub index: u32,
}

/// What it has in hand.
pub struct Attending {
    common: Arc<Common>,
    kernel: Kernel,
    monitor: Monitor,
    /// When what has changed is read again.
    refresh_at: Option<Instant>,
    /// The downstream interface.
    link: Option<Link>,
    /// Whether an operator has set the upstream up.
    upstream_is_up: bool,
    names: Names,
    /// While the interface has a link-local address.
    socket: Option<RaSocket>,
    /// Once there is something to say.
    schedule: Option<Schedule>,
    health: Health,
    /// Since when it does not serve.
    broken_since: Option<Instant>,
    problem: String,
    began: Instant,
    clients: BTreeSet<[u8; 6]>,
    beside: Beside,
    line: Line,
    looks: u32,
    /// Where a prefix is asked for.
    native: Option<Native>,
    /// Prefixes that clients may have from before.
    ended: Vec<Ipv6Addr>,
    /// The upstream's IPv6 as it was last, where that is not what the network was chosen for.
    other_native: Option<Option<Ipv6Addr>>,
    /// It has been so for a while.
    has_other_native: bool,
    option_108: Option<Duration>,
    servers: JoinSet<()>,
}

impl Attending {
    pub async fn begin(
        common: Arc<Common>,
        option_108: Option<Duration>,
        synthesize: Synthesize,
    ) -> Result<Attending, Failure> {
        // Subscribed first: what changes while it is read is read again.
        let monitor = Monitor::open().map_err(failed("follow the kernel's changes"))?;
        let kernel = Kernel::open().map_err(failed("ask the kernel"))?;
        let is_delegated = common.network.kind == Kind::Delegated;
        let mut attending = Attending {
            native: is_delegated.then(|| Native::start(&common, synthesize)),
            ended: Vec::new(),
            common,
            kernel,
            monitor,
            refresh_at: None,
            link: None,
            upstream_is_up: true,
            names: Names::new(),
            socket: None,
            schedule: None,
            health: Health::Broken,
            broken_since: None,
            problem: STARTS.to_owned(),
            began: Instant::now(),
            clients: BTreeSet::new(),
            beside: Beside::default(),
            line: Line::new(),
            looks: 0,
            other_native: None,
            has_other_native: false,
            option_108,
            servers: JoinSet::new(),
        };
        attending.note_prefixes();
        attending.refresh().await?;
        attending.serve_dhcp();
        attending.serve_proxied()?;
        Ok(attending)
    }

    /// Answers for clients in prefixes that are the upstream's.
    fn serve_proxied(&mut self) -> Result<(), Failure> {
        let network = &self.common.network;
        for prefix in network.prefixes.iter().filter(|prefix| !prefix.on_link) {
            let socket = proxy::open(&network.downstream, prefix.address);
            let socket = socket.map_err(failed("see the clients"))?;
            let common = Arc::clone(&self.common);
            self.servers.spawn(proxy::serve(socket, common));
        }
        Ok(())
    }

    fn serve_dhcp(&mut self) {
        let network = &self.common.network;
        let Some(link) = &self.link else { return };
        if network.dhcpv6 {
            match dhcpv6::open(&network.downstream, link.index) {
                Ok(socket) => {
                    let common = Arc::clone(&self.common);
                    self.servers.spawn(dhcpv6::serve(socket, link.mac, common));
                }
                Err(error) => tracing::warn!("no DHCPv6 (another server has the port?): {error}"),
            }
        }
        if let Some(wait) = self.option_108 {
            match dhcpv4::open(&network.downstream) {
                Ok(socket) => drop(self.servers.spawn(dhcpv4::serve(socket, wait))),
                Err(error) => tracing::warn!("no DHCPv4 (another server has the port?): {error}"),
            }
        }
    }

    /// Goes on until a signal, or until the gateway ends.
    pub async fn run(&mut self, signals: &mut Signals) -> Result<Ended, Failure> {
        let mut stop = self.common.stop.subscribe();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let refresh_at = self.refresh_at;
            let due_at = self.schedule.as_ref().map(Schedule::next);
            let due_at = due_at.filter(|_| self.socket.is_some());
            let at = |time: Option<Instant>| sleep_until(time.unwrap_or_else(Instant::now).into());
            tokio::select! {
                () = signals.any() => return Ok(Ended::Stopped),
                _ = stop.wait_for(|stop| *stop) => return Ok(Ended::Stopped),
                change = self.monitor.next() => self.note(change)?,
                () = at(refresh_at), if refresh_at.is_some() => self.refresh().await?,
                () = changed(self.native.as_mut()) => self.settle_native().await,
                received = receive(self.socket.as_ref()) => self.take(received),
                () = at(due_at), if due_at.is_some() => self.advertise().await,
                _ = look.tick() => self.look().await,
            }
            if self.has_other_native {
                return Ok(Ended::ChooseAnew);
            }
        }
    }

    fn note(&mut self, change: Option<Change>) -> Result<(), Failure> {
        match change {
            // A default route may have come with a prefix.
            Some(Change::Routes) if self.native.is_some() => {}
            Some(Change::Neighbor(..) | Change::Routes) => return Ok(()),
            Some(Change::Links | Change::Addresses) => {}
            Some(Change::Lost) | None => {
                self.monitor = Monitor::open().map_err(failed("follow the kernel's changes"))?;
            }
        }
        self.refresh_at
            .get_or_insert_with(|| Instant::now() + QUIET);
        Ok(())
    }

    /// Reads links and addresses again.
    async fn refresh(&mut self) -> Result<(), Failure> {
        self.refresh_at = None;
        let (links, addresses) = match (self.kernel.links().await, self.kernel.addresses().await) {
            (Ok(links), Ok(addresses)) => (links, addresses),
            (Err(error), _) | (_, Err(error)) => {
                return Err(Failure::Failed(format!("cannot read interfaces: {error}")));
            }
        };
        let network = &self.common.network;
        let upstream = links.iter().find(|link| link.name == network.upstream);
        if let Some(native) = &self.native {
            native.follow(upstream, &addresses);
        }
        self.upstream_is_up = upstream.is_some_and(|link| link.is_admin_up);
        // A gateway cannot start on an interface that is down; one that runs outlives it.
        let has_run = self.common.upstream.borrow().is_some();
        let upstream = upstream.filter(|_| has_run || self.upstream_is_up);
        let upstream = upstream.and_then(|link| {
            let ipv4 = ipv4_of(link, &addresses)?;
            Some(Upstream {
                ipv4,
                index: link.index,
            })
        });
        self.common
            .upstream
            .send_if_modified(|now| std::mem::replace(now, upstream) != upstream);
        let downstream = links.into_iter().find(|l| l.name == network.downstream);
        let is_same = match (&self.link, &downstream) {
            (Some(before), Some(now)) => before.index == now.index,
            (before, _) => before.is_none(),
        };
        if downstream.is_none() || !is_same {
            let name = &network.downstream;
            return Err(Failure::Interface(format!("interface {name} is gone")));
        }
        self.follow_link(downstream, &addresses);
        self.settle_native().await;
        Ok(())
    }

    /// Opens the socket when the downstream interface has its link-local address, and advertises
    /// at once when its link has come up.
    fn follow_link(&mut self, link: Option<Link>, addresses: &[Address]) {
        let had_carrier = self.link.as_ref().is_some_and(|link| link.has_carrier);
        self.link = link;
        let Some(link) = &self.link else { return };
        let link_local = setup::link_local(link, addresses);
        if self.socket.as_ref().map(|socket| socket.link_local) != link_local {
            self.socket = link_local.and_then(|source| {
                let opened = RaSocket::open(&link.name, link.index, source);
                opened
                    .inspect_err(|error| tracing::error!("cannot advertise from {source}: {error}"))
                    .ok()
            });
            self.changed();
        } else if link.has_carrier && !had_carrier {
            self.changed();
        }
    }

    /// Takes a delegated prefix that has come, gone or changed, and tells the clients.
    async fn settle_native(&mut self) {
        let Some(native) = &mut self.native else {
            return;
        };
        if native.settle(&self.common).await {
            self.note_prefixes();
            self.names.follow(&self.common, self.native.as_ref());
            self.changed();
        }
    }

    /// Notes what is announced from now on.
    fn note_prefixes(&mut self) {
        let own = self.common.network.prefixes.iter();
        let mut announced: Vec<Ipv6Addr> = own.map(|prefix| prefix.address).collect();
        announced.extend(self.native.as_ref().and_then(Native::prefix));
        match stale::note(&self.common.journal.prefixes_path(), &announced) {
            Ok(ended) => self.ended = ended,
            Err(error) => tracing::warn!("cannot note which prefixes clients have: {error}"),
        }
    }

    fn changed(&mut self) {
        if let Some(schedule) = &mut self.schedule {
            schedule.changed(Instant::now());
        }
    }

    fn take(&mut self, received: io::Result<Received>) {
        match received {
            Ok(Received::Solicitation(from)) => {
                if let Some(schedule) = &mut self.schedule {
                    schedule.solicited(from, Instant::now());
                }
            }
            Ok(Received::Advertisement(from, message)) => {
                self.beside
                    .hear(from, message, &self.common, &mut self.servers);
            }
            Err(error) => {
                tracing::debug!("the advertising socket failed: {error}");
                self.socket = None;
                self.refresh_at = Some(Instant::now() + LOOK_EVERY);
            }
        }
    }

    fn announcement(&self, health: Health) -> Option<Vec<u8>> {
        let link = self.link.as_ref()?;
        let link = RaLink {
            mac: link.mac,
            mtu: link.mtu,
        };
        let passing = Passing {
            lease: self.native.as_ref().and_then(Native::active),
            ended: &self.ended,
            now: Instant::now(),
        };
        let message = announcement(&self.common.network, link, health, passing);
        Some(message::encode(&message))
    }

    async fn advertise(&mut self) {
        let now = Instant::now();
        let due = self
            .schedule
            .as_mut()
            .and_then(|schedule| schedule.due(now));
        let octets = self.announcement(self.health);
        let (Some(due), Some(octets), Some(socket)) = (due, octets, &self.socket) else {
            return;
        };
        let to = match due {
            Due::AllNodes => None,
            Due::Solicitor(host) => Some(host),
        };
        if let Err(error) = socket.send(&octets, to).await {
            // Without a carrier there is nobody to hear it; it is said again when there is one.
            tracing::debug!("an advertisement was not sent: {error}");
        }
    }

    /// Looks at the translator's health, and counts now and then.
    async fn look(&mut self) {
        let problem = self.find_problem();
        let health = self.judge(problem.is_some(), Instant::now());
        self.problem = problem.unwrap_or_default();
        if self.schedule.is_none() {
            if health == Health::Serving || self.began.elapsed() >= PATIENCE {
                let interval = self.common.network.ra_interval_max;
                let schedule = Schedule::new(interval, Random::seeded(), Instant::now());
                self.schedule = Some(schedule);
            }
        } else if health != self.health {
            self.changed();
        }
        self.health = health;
        if self.looks.is_multiple_of(LOOKS_PER_COUNT) {
            self.names.follow(&self.common, self.native.as_ref());
            self.count_clients().await;
            let sessions = self.sessions();
            let has_clients = !self.clients.is_empty() && self.health == Health::Serving;
            self.names.hint(&self.common, has_clients);
            let own = self.common.network.preference;
            let status = Status {
                health: self.health,
                problem: self.problem.clone(),
                in_the_way: self.beside.preferred_to(own, Instant::now()),
                clients: self.clients.len(),
                sessions,
            };
            // What was chosen is shown first.
            if self.line.is_shown() || status.problem != STARTS {
                self.line.show(status);
            }
        }
        if self.looks.is_multiple_of(LOOKS_PER_READING) {
            self.follow_native();
        }
        self.looks = self.looks.wrapping_add(1);
    }

    fn judge(&mut self, has_problem: bool, now: Instant) -> Health {
        if !has_problem {
            self.broken_since = None;
            return Health::Serving;
        }
        let since = *self.broken_since.get_or_insert(now);
        match self.health {
            Health::Serving if now.duration_since(since) < BROKEN_AFTER => Health::Serving,
            _ => Health::Broken,
        }
    }

    /// The upstream may gain IPv6, lose it, or get another prefix. What is found twice in a row is
    /// taken: clients get new addresses then, and an upstream that is only renewed is left alone.
    fn follow_native(&mut self) {
        let network = &self.common.network;
        let is_fixed = matches!(network.kind, Kind::Test | Kind::Delegated);
        if is_fixed || self.health != Health::Serving {
            self.other_native = None;
            return;
        }
        let found = setup::upstream_prefix(&network.upstream, network.native);
        let is_same = match network.kind {
            // The clients' prefix is the operator's.
            Kind::Routed => found.is_some(),
            _ => found == network.native,
        };
        if is_same {
            self.other_native = None;
        } else if self.other_native.replace(found) == Some(found) {
            let text = found.map_or("none".to_owned(), |ip| format!("{ip}/64"));
            let name = &network.upstream;
            tracing::info!("the IPv6 of {name} has changed ({text}): the network begins anew");
            self.has_other_native = true;
        }
    }

    /// Why the translator does not serve; nothing if it does.
    fn find_problem(&self) -> Option<String> {
        let upstream = &self.common.network.upstream;
        if self.common.upstream.borrow().is_none() {
            return Some(match self.upstream_is_up {
                true => format!("{upstream} has no IPv4 address"),
                false => format!("{upstream} is down: `ip link set {upstream} up`"),
            });
        }
        let gateway = self.common.gateway.load_full();
        let Some(state) = gateway else {
            return Some(STARTS.to_owned());
        };
        let problems = state.readiness().nat64.unwrap_or_default();
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    fn sessions(&self) -> u64 {
        let gateway = self.common.gateway.load_full();
        gateway.map_or(0, |state| {
            let sessions = state.protocols(counters::sessions);
            sessions.udp + sessions.tcp + sessions.icmp
        })
    }

    async fn count_clients(&mut self) {
        let Some(index) = self.link.as_ref().map(|link| link.index) else {
            return;
        };
        let neighbors = self.kernel.neighbors().await.unwrap_or_default();
        let macs = neighbors.into_iter().filter_map(|((on, ip), neighbor)| {
            let is_client = on == index && !self.is_router(ip);
            neighbor.valid_mac().filter(|_| is_client)
        });
        let macs: Vec<[u8; 6]> = macs.collect();
        self.clients.extend(macs);
    }

    fn is_router(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V6(ip) if self.beside.has(ip))
    }

    /// RFC 4861 section 6.2.5: hosts are told that this router goes.
    pub async fn leave(&mut self) {
        self.servers.shutdown().await;
        if let (Some(octets), Some(socket), Some(_)) = (
            self.announcement(Health::Leaving),
            &self.socket,
            &self.schedule,
        ) && let Err(error) = socket.send(&octets, None).await
        {
            tracing::debug!("the last advertisement was not sent: {error}");
        }
        if let Some(native) = self.native.take() {
            native.end().await;
        }
        self.line.end();
    }
}

/// The next message; none without a socket.
async fn receive(socket: Option<&RaSocket>) -> io::Result<Received> {
    match socket {
        Some(socket) => socket.receive().await,
        None => std::future::pending().await,
    }
}

/// Completes when a delegated prefix may have changed; never where none is asked for.
async fn changed(native: Option<&mut Native>) {
    match native {
        Some(native) => native.changed().await,
        None => std::future::pending().await,
    }
}

/// The first address that others can answer to.
fn ipv4_of(link: &Link, addresses: &[Address]) -> Option<Ipv4Addr> {
    let of_link = addresses.iter().filter(|one| one.index == link.index);
    let usable = of_link.filter_map(|one| match one.address.ip {
        IpAddr::V4(ip) if !ip.is_link_local() && !ip.is_loopback() => {
            Some((one.is_second_choice, ip))
        }
        _ => None,
    });
    usable.min_by_key(|(second, _)| *second).map(|(_, ip)| ip)
}
