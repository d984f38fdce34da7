//! What the kernel and packet I/O know, for the API and the metrics.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use gate64_dataplane::gateway::Gateway;
use gate64_dataplane::io::steering::SteeringStatistics;
use gate64_dataplane::io::{InterfaceReport, XskStatistics};
use gate64_dataplane::route::{Lookup, NextHop, PortId, RouteSnapshot};

use super::{Translator, lock};
use crate::api::model;
use crate::netlink::{InterfaceState, Router};
use crate::state::{SocketStatistics, Surroundings};

/// The kernel as gate64 sees it; nothing where there is no translator.
pub(super) struct Kernel(Option<Parts>);

struct Parts {
    gateway: Arc<Mutex<Gateway>>,
    router: Arc<Router>,
    routes: Arc<ArcSwap<RouteSnapshot>>,
}

impl Kernel {
    pub(super) fn of(translator: Option<&Translator>) -> Kernel {
        Kernel(translator.map(|translator| Parts {
            gateway: Arc::clone(&translator.gateway),
            router: Arc::clone(&translator.router),
            routes: Arc::clone(&translator.routes),
        }))
    }
}

impl Surroundings for Kernel {
    fn interfaces(&self) -> Vec<model::Interface> {
        let Some(parts) = &self.0 else {
            return Vec::new();
        };
        let reports = lock(&parts.gateway).interfaces().to_vec();
        reports
            .into_iter()
            .zip(parts.router.interfaces())
            .map(|(report, state)| interface(report, &state))
            .collect()
    }

    fn neighbors(&self) -> Vec<model::Neighbor> {
        let Some(parts) = &self.0 else {
            return Vec::new();
        };
        let interfaces = parts.router.interfaces();
        let name = |port: PortId| {
            interfaces
                .get(usize::from(port.0))
                .map(|one| one.name.clone())
                .unwrap_or_default()
        };
        let rows = parts
            .router
            .neighbors()
            .into_iter()
            .map(|one| model::Neighbor {
                interface: name(one.port),
                ip: one.ip.to_string(),
                mac: one.mac.map(mac_text).unwrap_or_default(),
            });
        rows.collect()
    }

    fn routes(&self) -> (usize, usize) {
        self.0
            .as_ref()
            .map_or((0, 0), |parts| parts.routes.load().table().len())
    }

    fn leads_out(&self) -> (bool, bool) {
        self.0.as_ref().map_or((false, false), |parts| {
            parts.routes.load().table().leads_out()
        })
    }

    fn notifications_lost(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |parts| parts.router.notifications_lost())
    }

    fn route_text(&self, destination: IpAddr) -> String {
        let Some(parts) = &self.0 else {
            return "no translator runs".to_owned();
        };
        let routes = parts.routes.load();
        let lookup = match destination {
            IpAddr::V4(ip) => routes.route4(ip),
            IpAddr::V6(ip) => routes.route6(ip),
        };
        let name = |port: PortId| routes.port(port).map_or("?", |port| port.name.as_str());
        match lookup {
            Lookup::Hop(hop) => {
                let NextHop {
                    port,
                    destination_mac,
                    mtu,
                    ..
                } = *routes.hop(hop);
                format!(
                    "via {} on {}, MTU {mtu}",
                    mac_text(destination_mac),
                    name(port)
                )
            }
            Lookup::Unresolved { port, ip, mtu } => {
                format!("via {ip} on {} (not resolved yet), MTU {mtu}", name(port))
            }
            Lookup::NoRoute => "no route".to_owned(),
            Lookup::Elsewhere => "an interface that gate64 does not hold".to_owned(),
            Lookup::Local => "an address of this host".to_owned(),
            Lookup::Unreachable => "a route of type unreachable".to_owned(),
            Lookup::Prohibited => "a route of type prohibit".to_owned(),
            Lookup::Blackhole => "a route of type blackhole".to_owned(),
        }
    }

    fn sockets(&self) -> Vec<SocketStatistics> {
        let Some(parts) = &self.0 else {
            return Vec::new();
        };
        let gateway = lock(&parts.gateway);
        let names = gateway.interfaces().iter().map(|one| one.name.clone());
        let steering = gateway.steering_statistics();
        names
            .zip(gateway.xsk_statistics())
            .zip(steering)
            .map(|((name, sockets), steering)| statistics(name, &sockets, &steering))
            .collect()
    }
}

fn interface(report: InterfaceReport, state: &InterfaceState) -> model::Interface {
    let addresses = state
        .addresses
        .iter()
        .map(|address| format!("{}/{}", address.ip, address.length));
    model::Interface {
        name: report.name,
        is_up: state.is_up(),
        xdp_mode: report.mode.name().to_owned(),
        zero_copy: report.zero_copy,
        busy_poll: report.busy_poll,
        queues: report.queues,
        driver: report.driver,
        mac: mac_text(state.mac),
        mtu: state.mtu,
        vlan: state.vlan,
        addresses: addresses.collect(),
        notes: report.notes,
    }
}

fn statistics(
    interface: String,
    sockets: &XskStatistics,
    steering: &SteeringStatistics,
) -> SocketStatistics {
    SocketStatistics {
        labels: vec![("interface", interface)],
        values: vec![
            (
                "gate64_xsk_rx_dropped_total",
                "Received frames that the kernel dropped, such as those longer than a chunk.",
                sockets.rx_dropped,
            ),
            (
                "gate64_xsk_rx_invalid_total",
                "Received descriptors that were not valid.",
                sockets.rx_invalid,
            ),
            (
                "gate64_xsk_tx_invalid_total",
                "Descriptors to send that were not valid.",
                sockets.tx_invalid,
            ),
            (
                "gate64_xsk_rx_ring_full_total",
                "Received frames dropped because the worker was too slow.",
                sockets.rx_ring_full,
            ),
            (
                "gate64_xsk_rx_fill_ring_empty_total",
                "Times the kernel found no free frame.",
                sockets.rx_fill_ring_empty,
            ),
            (
                "gate64_xsk_tx_ring_empty_total",
                "Times the kernel found nothing to send.",
                sockets.tx_ring_empty,
            ),
            (
                "gate64_steering_ipv6_total",
                "IPv6 packets steered to gate64.",
                steering.to_gate64_v6,
            ),
            (
                "gate64_steering_ipv4_total",
                "IPv4 packets steered to gate64.",
                steering.to_gate64_v4,
            ),
            (
                "gate64_steering_no_socket_total",
                "Packets for gate64 dropped on a queue without a socket.",
                steering.no_socket,
            ),
            (
                "gate64_steering_shared_passed_total",
                "Packets to a shared address left to the host.",
                steering.shared_passed,
            ),
            (
                "gate64_steering_passed_total",
                "All other packets, left to the kernel.",
                steering.passed,
            ),
        ],
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
