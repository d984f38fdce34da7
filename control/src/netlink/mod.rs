//! Routes, neighbours and links of the kernel, followed live and published for the workers.
//!
//! [`Router`] reads links, addresses, routes (tables `local` and `main`; policy rules and other
//! tables are not looked at) and neighbours by rtnetlink, listens for their changes and stores a
//! new [`RouteSnapshot`] whenever one matters. `ip`, BIRD and FRR stay the operator's tools.

mod follow;
mod keeper;
pub(crate) mod kernel;
pub(crate) mod monitor;
mod ports;
mod rib;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use gate64_dataplane::config::InterfaceAddress;
use gate64_dataplane::route::{PortId, RouteSnapshot};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use follow::Follower;

/// Wishes for neighbours that may wait; a worker repeats its wish with its next packet.
const WISHES_MAX: usize = 1024;

/// Time for removing neighbour entries at the end.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// An interface to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Its name in the kernel.
    pub name: String,
    /// The 802.1Q id that gate64 reads and writes itself, if any.
    pub vlan: Option<u16>,
}

/// An interface as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceState {
    /// Its index among gate64's interfaces.
    pub port: PortId,
    /// Its configured name.
    pub name: String,
    /// The 802.1Q id, if any.
    pub vlan: Option<u16>,
    /// Whether the kernel has it at all.
    pub is_present: bool,
    /// Kernel index of the device that has its addresses and routes (the VLAN device, if there
    /// is one); 0 if missing.
    pub index: u32,
    /// MAC address.
    pub mac: [u8; 6],
    /// MTU in octets.
    pub mtu: u32,
    /// Set up by the operator.
    pub is_admin_up: bool,
    /// The link is there.
    pub has_carrier: bool,
    /// Its addresses, the preferred first.
    pub addresses: Vec<InterfaceAddress>,
}

impl InterfaceState {
    /// Whether packets can be sent.
    pub fn is_up(&self) -> bool {
        self.is_present && self.is_admin_up && self.has_carrier
    }
}

/// A neighbour on one of gate64's interfaces as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighborState {
    /// Its interface.
    pub port: PortId,
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC address, if known.
    pub mac: Option<[u8; 6]>,
    /// The kernel's word for its state: `reachable`, `stale`, `failed` …
    pub state: String,
    /// Whether workers send to it.
    pub is_used: bool,
    /// Whether gate64 has asked the kernel to keep it fresh.
    pub is_kept: bool,
    /// Whether a route leads through it.
    pub is_gateway: bool,
}

/// What there is to show besides the snapshot.
#[derive(Debug, Default)]
struct View {
    interfaces: Vec<InterfaceState>,
    neighbors: Vec<NeighborState>,
    notifications_lost: u64,
}

/// Why routes and neighbours cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket to read routes and neighbours: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused to list something.
    #[error("cannot read {what} from the kernel by netlink: {source}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// An interface of the configuration is not there.
    #[error(
        "there is no interface `{name}` on this host; there are: {}. Correct the name of the \
         [[interface]] or create the interface first",
        present.join(", ")
    )]
    MissingInterface {
        /// The name looked for.
        name: String,
        /// The names there are.
        present: Vec<String>,
    },
    /// An interface without MAC addresses.
    #[error(
        "interface `{name}` is not an Ethernet interface: gate64 writes Ethernet headers; name \
         one that has a MAC address"
    )]
    NotEthernet {
        /// Its name.
        name: String,
    },
    /// Not allowed to ask for neighbours.
    #[error(
        "gate64 may not ask the kernel to resolve neighbours (CAP_NET_ADMIN is missing): run it \
         as root, or give its service AmbientCapabilities=CAP_NET_ADMIN"
    )]
    NoPrivilege,
}

/// Follows the kernel's routes and neighbours.
pub struct Router {
    view: Arc<ArcSwap<View>>,
    wishes: mpsc::Sender<(PortId, IpAddr)>,
    /// How the task is told to end, and the task; taken by the first stop.
    running: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Router {
    /// As [`Router::follow`], with all routes.
    #[cfg(test)]
    pub async fn start(
        ports: Vec<PortSpec>,
        routes: Arc<ArcSwap<RouteSnapshot>>,
    ) -> Result<Router, NetlinkError> {
        Router::follow(ports, false, routes).await
    }

    /// Reads everything once, publishes the first snapshot in `routes` and asks for the routes'
    /// gateways; from then on a task of the present tokio runtime follows every change.
    /// `held_only`: routes by other interfaces than these are passed over.
    ///
    /// # Errors
    /// If an interface is missing or not Ethernet, or the kernel refuses.
    pub async fn follow(
        ports: Vec<PortSpec>,
        held_only: bool,
        routes: Arc<ArcSwap<RouteSnapshot>>,
    ) -> Result<Router, NetlinkError> {
        let view = Arc::new(ArcSwap::from_pointee(View::default()));
        let follower = Follower::start(ports, held_only, routes, Arc::clone(&view)).await?;
        let (wishes, wishes_rx) = mpsc::channel(WISHES_MAX);
        let (stop, stop_rx) = oneshot::channel();
        Ok(Router {
            view,
            wishes,
            running: Mutex::new(Some((stop, tokio::spawn(follower.run(wishes_rx, stop_rx))))),
        })
    }

    /// Wishes for a neighbour that a lookup called unresolved. Never waits; a wish too many is
    /// dropped, since the next packet repeats it.
    pub fn resolve(&self, port: PortId, ip: IpAddr) {
        let _ = self.wishes.try_send((port, ip));
    }

    /// The interfaces as they are now, by [`PortId`].
    pub fn interfaces(&self) -> Vec<InterfaceState> {
        self.view.load().interfaces.clone()
    }

    /// The neighbours on these interfaces, in order of interface and address.
    pub fn neighbors(&self) -> Vec<NeighborState> {
        self.view.load().neighbors.clone()
    }

    /// How often the kernel had more to tell than was read in time. Each time everything was
    /// read again, so nothing is missed, only late.
    pub fn notifications_lost(&self) -> u64 {
        self.view.load().notifications_lost
    }

    /// Stops following and takes back what was asked of the kernel.
    pub async fn stop(&self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some((stop, task)) = running else { return };
        // The task may have ended by itself.
        let _ = stop.send(());
        let abort = task.abort_handle();
        if tokio::time::timeout(STOP_TIME_MAX, task).await.is_err() {
            abort.abort();
            tracing::warn!("neighbour entries could not be removed from the kernel in time");
        }
    }
}
