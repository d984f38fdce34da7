//! The task behind [`super::Router`]: notes what changed, reads it again after a moment's
//! quiet, and publishes.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gate64_dataplane::route::{PortId, RouteSnapshot, RouteTable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::NeighbourState;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::keeper::{Ask, Keeper, is_usable};
use super::kernel::{Address, Kernel, Link, Neighbor, NeighborKey};
use super::monitor::{Change, Monitor};
use super::rib::Rib;
use super::{InterfaceState, NeighborState, NetlinkError, PortSpec, View, ports};

/// Changes that come within this time are read and published together.
const QUIET: Duration = Duration::from_millis(10);

/// After reading routes for a time, they are not read again for so many times that time: a
/// flapping routing daemon must not keep the control core busy.
const PAUSE_FACTOR: u32 = 4;

/// Pause after the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// What has to be read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stale {
    links: bool,
    addresses: bool,
    routes: bool,
    neighbors: bool,
    /// Nothing to read, but a new snapshot or view to publish.
    publication: bool,
}

impl Stale {
    const ALL: Stale = Stale {
        links: true,
        addresses: true,
        routes: true,
        neighbors: true,
        publication: true,
    };

    fn any(self) -> bool {
        self != Stale::default()
    }

    fn only_routes(self) -> bool {
        !Stale {
            routes: false,
            ..self
        }
        .any()
    }
}

pub struct Follower {
    specs: Vec<PortSpec>,
    /// Whether routes by other interfaces are passed over.
    held_only: bool,
    routes: Arc<ArcSwap<RouteSnapshot>>,
    view: Arc<ArcSwap<View>>,
    kernel: Kernel,
    monitor: Monitor,
    keeper: Keeper,
    links: Vec<Link>,
    addresses: Vec<Address>,
    interfaces: Vec<InterfaceState>,
    /// The interfaces by kernel index.
    by_index: HashMap<u32, PortId>,
    table: Arc<RouteTable>,
    /// Of these interfaces only.
    neighbors: HashMap<NeighborKey, Neighbor>,
    notifications_lost: u64,
    stale: Stale,
    stale_since: Option<Instant>,
    /// Routes are not to be read before.
    routes_pause_until: Instant,
}

impl Follower {
    pub async fn start(
        specs: Vec<PortSpec>,
        held_only: bool,
        routes: Arc<ArcSwap<RouteSnapshot>>,
        view: Arc<ArcSwap<View>>,
    ) -> Result<Follower, NetlinkError> {
        // Subscribed first: what changes while everything is read is read again.
        let monitor = Monitor::open().map_err(NetlinkError::Open)?;
        let kernel = Kernel::open().map_err(NetlinkError::Open)?;
        let links = kernel.links().await.map_err(read_error("links"))?;
        ports::check(&specs, &links)?;
        if !may_administer_network() {
            return Err(NetlinkError::NoPrivilege);
        }
        let mut follower = Follower {
            specs,
            held_only,
            routes,
            view,
            kernel,
            monitor,
            keeper: Keeper::new(),
            links: Vec::new(),
            addresses: Vec::new(),
            interfaces: Vec::new(),
            by_index: HashMap::new(),
            table: Arc::new(RouteTable::default()),
            neighbors: HashMap::new(),
            notifications_lost: 0,
            stale: Stale::ALL,
            stale_since: None,
            routes_pause_until: Instant::now(),
        };
        follower.refresh().await?;
        Ok(follower)
    }

    pub async fn run(
        mut self,
        mut wishes: mpsc::Receiver<(PortId, IpAddr)>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let refresh_at = self.refresh_at();
            let wait = tokio::time::sleep_until(refresh_at.unwrap_or_else(Instant::now).into());
            tokio::select! {
                _ = &mut stop => break,
                change = self.monitor.next() => self.note(change).await,
                wish = wishes.recv() => match wish {
                    Some((port, ip)) => self.wish(port, ip).await,
                    None => break,
                },
                _ = tick.tick() => self.tick().await,
                () = wait, if refresh_at.is_some() => self.refresh_or_retry().await,
            }
        }
        self.release_all().await;
    }

    /// When to read again what is stale.
    fn refresh_at(&mut self) -> Option<Instant> {
        if !self.stale.any() {
            self.stale_since = None;
            return None;
        }
        let soon = *self.stale_since.get_or_insert_with(Instant::now) + QUIET;
        Some(match self.stale.only_routes() {
            true => soon.max(self.routes_pause_until),
            false => soon,
        })
    }

    async fn note(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Links) => self.stale.links = true,
            Some(Change::Addresses) => self.stale.addresses = true,
            Some(Change::Routes) => self.stale.routes = true,
            Some(Change::Neighbor(key, neighbor)) => self.note_neighbor(key, neighbor).await,
            Some(Change::Lost) => {
                tracing::warn!("notifications of the kernel were lost; reading everything again");
                self.notifications_lost += 1;
                // Until the full socket has been read empty, the kernel drops all that follows
                // and does not say so again (NETLINK_S_CONGESTED, Linux 6.18): what is read now
                // could be out of date unnoticed. A new socket begins empty.
                self.reopen().await;
            }
            None => {
                tracing::warn!("the netlink subscription ended; opening it anew");
                self.reopen().await;
            }
        }
    }

    async fn note_neighbor(&mut self, key: NeighborKey, neighbor: Option<Neighbor>) {
        if !self.by_index.contains_key(&key.0) {
            return;
        }
        let before = match neighbor {
            Some(neighbor) => self.neighbors.insert(key, neighbor),
            None => self.neighbors.remove(&key),
        };
        if before == neighbor {
            return;
        }
        self.stale.publication = true;
        let is_failed = neighbor.is_some_and(|n| n.state == NeighbourState::Failed);
        if self.keeper.is_gateway(&key) {
            if neighbor.is_none() {
                self.ask(key, true).await;
            }
        } else if neighbor.is_none() {
            self.keeper.release(&key);
        } else if is_failed {
            self.release(key).await;
        }
    }

    /// A worker needs this neighbour.
    async fn wish(&mut self, port: PortId, ip: IpAddr) {
        let Some(state) = self.interfaces.get(usize::from(port.0)) else {
            return;
        };
        if state.is_up() {
            self.ask((state.index, ip), false).await;
        }
    }

    /// Gateways are asked for without a packet, and again as long as they do not answer.
    async fn tick(&mut self) {
        self.keeper.tick();
        for key in self.gateways() {
            self.ask(key, true).await;
        }
        for key in self.keeper.keys() {
            let is_stale = |n: &Neighbor| n.state == NeighbourState::Stale;
            if self.neighbors.get(&key).is_some_and(is_stale) {
                self.ask(key, false).await;
            }
        }
    }

    /// The routes' gateways on interfaces that are up.
    fn gateways(&self) -> HashSet<NeighborKey> {
        let gateways = self.table.gateways();
        let key = |(port, ip): (PortId, IpAddr)| {
            let state = self.interfaces.get(usize::from(port.0))?;
            state.is_up().then_some((state.index, ip))
        };
        gateways.into_iter().filter_map(key).collect()
    }

    async fn ask(&mut self, key: NeighborKey, is_gateway: bool) {
        let neighbor = self.neighbors.get(&key);
        let Some(ask) = self.keeper.ask(key, neighbor, is_gateway, Instant::now()) else {
            return;
        };
        self.stale.publication = true;
        let managed = self.kernel.look_after(key, ask == Ask::Keep).await;
        if let Err(refused) = &managed
            && ask == Ask::Keep
            && self.kernel.look_after(key, false).await.is_err()
        {
            let (index, ip) = key;
            tracing::warn!(%ip, index, "the kernel refused to resolve a neighbour: {refused}");
        }
    }

    /// Takes back what was asked of the kernel for one neighbour.
    async fn release(&mut self, key: NeighborKey) {
        let taken_back = match self.keeper.release(&key) {
            Some(true) => self.kernel.forget(key).await,
            Some(false) => self.kernel.leave_alone(key).await,
            None => Ok(()),
        };
        if let Err(error) = taken_back {
            // Most likely the kernel has removed the entry already.
            tracing::debug!(ip = %key.1, "a neighbour entry was not removed: {error}");
        }
    }

    async fn release_all(&mut self) {
        for key in self.keeper.keys() {
            self.release(key).await;
        }
    }

    async fn refresh_or_retry(&mut self) {
        self.stale_since = None;
        if let Err(error) = self.refresh().await {
            tracing::error!("{error}; trying again in a second");
            tokio::time::sleep(RETRY).await;
            self.reopen().await;
        }
    }

    /// Opens both sockets anew and has everything read again.
    async fn reopen(&mut self) {
        match (Monitor::open(), Kernel::open()) {
            (Ok(monitor), Ok(kernel)) => {
                self.monitor = monitor;
                self.kernel = kernel;
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!("{}; trying again in a second", NetlinkError::Open(error));
                // The dead subscription would say so again at once.
                tokio::time::sleep(RETRY).await;
            }
        }
        self.stale = Stale::ALL;
    }

    /// Reads what is stale, and publishes.
    async fn refresh(&mut self) -> Result<(), NetlinkError> {
        let mut stale = std::mem::take(&mut self.stale);
        if stale.links || stale.addresses {
            self.read_links(&mut stale).await?;
        }
        if stale.routes && Instant::now() < self.routes_pause_until && !stale.links {
            self.stale.routes = true;
        } else if stale.routes {
            self.table = Arc::new(self.read_routes().await?);
        }
        if stale.neighbors {
            let all = self.kernel.neighbors().await;
            let all = all.map_err(read_error("neighbours"))?;
            let ours = |(key, _): &(NeighborKey, Neighbor)| self.by_index.contains_key(&key.0);
            self.neighbors = all.into_iter().filter(ours).collect();
        }
        self.look_after_gateways().await;
        // Asking makes a publication due, and here it comes.
        self.stale.publication = false;
        self.publish();
        Ok(())
    }

    async fn read_links(&mut self, stale: &mut Stale) -> Result<(), NetlinkError> {
        let links = self.kernel.links().await.map_err(read_error("links"))?;
        let addresses = self.kernel.addresses().await;
        let addresses = addresses.map_err(read_error("addresses"))?;
        if (&links, &addresses) != (&self.links, &self.addresses) {
            // A link that goes down or an address that goes takes IPv4 routes along without a
            // notification (Linux up to 6.18 at least).
            stale.routes = true;
            stale.neighbors = true;
        }
        let interfaces = ports::interfaces(&self.specs, &links, &addresses);
        for state in &interfaces {
            report(self.interfaces.get(usize::from(state.port.0)), state);
        }
        self.by_index = ports::by_index(&interfaces);
        self.links = links;
        self.addresses = addresses;
        self.interfaces = interfaces;
        Ok(())
    }

    async fn read_routes(&mut self) -> Result<RouteTable, NetlinkError> {
        let started = Instant::now();
        let mut rib = Rib::new(&self.by_index).held_only(self.held_only);
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let read = self.kernel.each_route(family, |route| rib.add(&route));
            read.await.map_err(read_error("routes"))?;
        }
        let table = rib.into_table();
        let now = Instant::now();
        self.routes_pause_until = now + PAUSE_FACTOR * now.duration_since(started);
        Ok(table)
    }

    /// Asks for new gateways, and lets go those that no route has any more.
    async fn look_after_gateways(&mut self) {
        let gateways = self.gateways();
        for key in self.keeper.keys() {
            let is_gone = !self.by_index.contains_key(&key.0);
            if is_gone || (self.keeper.is_gateway(&key) && !gateways.contains(&key)) {
                self.release(key).await;
            }
        }
        for key in gateways {
            self.ask(key, true).await;
        }
    }

    fn publish(&self) {
        let mut builder = RouteSnapshot::builder().table(Arc::clone(&self.table));
        for state in &self.interfaces {
            builder = builder.port(ports::port(state));
        }
        let mut neighbors = self.neighbor_states();
        neighbors.sort_by_key(|neighbor| (neighbor.port, neighbor.ip));
        for neighbor in neighbors.iter().filter(|neighbor| neighbor.is_used) {
            if let Some(mac) = neighbor.mac {
                builder = builder.neighbor(neighbor.port, neighbor.ip, mac);
            }
        }
        let generation = self.routes.load().generation().wrapping_add(1);
        self.routes.store(Arc::new(builder.build(generation)));
        self.view.store(Arc::new(View {
            interfaces: self.interfaces.clone(),
            neighbors,
            notifications_lost: self.notifications_lost,
        }));
    }

    fn neighbor_states(&self) -> Vec<NeighborState> {
        let state = |(key, neighbor): (&NeighborKey, &Neighbor)| {
            let is_kept = self.keeper.contains(key);
            Some(NeighborState {
                port: *self.by_index.get(&key.0)?,
                ip: key.1,
                mac: neighbor.mac,
                state: neighbor.state.to_string(),
                is_used: neighbor.valid_mac().is_some() && is_usable(neighbor, is_kept),
                is_kept,
                is_gateway: self.keeper.is_gateway(key),
            })
        };
        self.neighbors.iter().filter_map(state).collect()
    }
}

fn read_error(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError::Read { what, source }
}

/// Tells the operator of an interface that comes or goes.
fn report(before: Option<&InterfaceState>, now: &InterfaceState) {
    if before.is_some_and(|before| before.is_up() == now.is_up()) {
        return;
    }
    let name = &now.name;
    match now {
        _ if now.is_up() => tracing::info!("interface {name} is up"),
        _ if !now.is_present => tracing::warn!("interface {name} is gone"),
        _ if !now.is_admin_up => tracing::warn!("interface {name} is down: ip link set {name} up"),
        _ => tracing::warn!("interface {name} has no carrier"),
    }
}

/// Whether CAP_NET_ADMIN is effective.
fn may_administer_network() -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Without a readable /proc the kernel's own refusal has to do.
    effective.is_none_or(|mask| mask & (1 << CAP_NET_ADMIN) != 0)
}
