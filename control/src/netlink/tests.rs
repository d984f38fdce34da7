//! The router against a real kernel: two network namespaces, a veth pair between them, and the
//! peer's own ARP and neighbour discovery answering. Needs root and iproute2.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gate64_dataplane::route::{Lookup, NextHop, PortId, RouteSnapshot};

use super::{NetlinkError, PortSpec, Router};

const PATIENCE: Duration = Duration::from_secs(60);
const UP: PortId = PortId(0);
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Two namespaces: the gateway's, with `up0` (192.0.2.1/24, 2001:db8::1/64, fe80::1), and the
/// peer's, with `p0` (192.0.2.2 and .3, 2001:db8::2, fe80::2). Removed when dropped.
struct Lab {
    gateway: String,
    peer: String,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.gateway, &self.peer] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

impl Lab {
    fn new() -> Lab {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "g64nl-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let lab = Lab {
            gateway: format!("{id}-g"),
            peer: format!("{id}-p"),
        };
        ip(&["netns", "add", &lab.gateway]);
        ip(&["netns", "add", &lab.peer]);
        lab.connect();
        lab
    }

    fn connect(&self) {
        ip(&[
            "link",
            "add",
            "up0",
            "address",
            "02:00:00:00:00:01",
            "netns",
            &self.gateway,
            "type",
            "veth",
            "peer",
            "name",
            "p0",
            "address",
            "02:00:00:00:00:02",
            "netns",
            &self.peer,
        ]);
        for (namespace, device) in [(&self.gateway, "up0"), (&self.peer, "p0")] {
            ip(&[
                "-n",
                namespace,
                "link",
                "set",
                device,
                "addrgenmode",
                "none",
            ]);
            ip(&["-n", namespace, "link", "set", device, "up"]);
        }
        for address in ["192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"] {
            self.address(&self.gateway, "up0", address);
        }
        for address in [
            "192.0.2.2/24",
            "192.0.2.3/24",
            "2001:db8::2/64",
            "fe80::2/64",
        ] {
            self.address(&self.peer, "p0", address);
        }
    }

    fn address(&self, namespace: &str, device: &str, address: &str) {
        let nodad: &[&str] = if address.contains(':') {
            &["nodad"]
        } else {
            &[]
        };
        ip(&[
            &["-n", namespace, "addr", "add", address, "dev", device],
            nodad,
        ]
        .concat());
    }

    fn ip(&self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        ip(&[&["-n", &self.gateway], words.as_slice()].concat());
    }

    fn peer_ip(&self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        ip(&[&["-n", &self.peer], words.as_slice()].concat());
    }

    fn neighbors(&self) -> String {
        ip(&["-n", &self.gateway, "-d", "neigh", "show", "dev", "up0"])
    }
}

fn ip(words: &[&str]) -> String {
    let output = Command::new("ip")
        .args(words)
        .output()
        .expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", words.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a test in a thread of the gateway's namespace with a tokio runtime.
fn in_lab(test: impl AsyncFnOnce(&Lab) + Send + 'static) {
    let lab = Lab::new();
    let run = move || {
        let namespace = std::fs::File::open(format!("/run/netns/{}", lab.gateway)).unwrap();
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(&lab));
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

struct Running {
    router: Router,
    routes: Arc<ArcSwap<RouteSnapshot>>,
}

async fn start() -> Running {
    let routes = Arc::new(ArcSwap::from_pointee(RouteSnapshot::default()));
    let ports = vec![PortSpec {
        name: "up0".into(),
        vlan: None,
    }];
    let router = Router::start(ports, Arc::clone(&routes)).await.unwrap();
    Running { router, routes }
}

impl Running {
    fn route4(&self, dst: &str) -> Lookup {
        self.routes.load().route4(dst.parse::<Ipv4Addr>().unwrap())
    }

    fn route6(&self, dst: &str) -> Lookup {
        self.routes.load().route6(dst.parse::<Ipv6Addr>().unwrap())
    }

    fn hop4(&self, dst: &str) -> Option<NextHop> {
        let snapshot = self.routes.load();
        match snapshot.route4(dst.parse().unwrap()) {
            Lookup::Hop(hop) => Some(*snapshot.hop(hop)),
            _ => None,
        }
    }

    fn hop6(&self, dst: &str) -> Option<NextHop> {
        let snapshot = self.routes.load();
        match snapshot.route6(dst.parse().unwrap()) {
            Lookup::Hop(hop) => Some(*snapshot.hop(hop)),
            _ => None,
        }
    }

    async fn eventually(&self, what: &str, mut is_so: impl FnMut(&Running) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(
                Instant::now() < end,
                "not within {PATIENCE:?}: {what}\n{:#?}\n{:#?}",
                self.router.interfaces(),
                self.router.neighbors()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn a_default_gateway_is_resolved_without_a_packet() {
    in_lab(async |lab| {
        lab.ip("route add default via 192.0.2.2");
        let running = start().await;
        assert_eq!(running.routes.load().generation(), 2);
        running
            .eventually("the gateway has answered ARP", |r| {
                r.hop4("8.8.8.8").is_some()
            })
            .await;
        let hop = running.hop4("8.8.8.8").unwrap();
        assert_eq!(
            (hop.port, hop.destination_mac, hop.source_mac, hop.mtu),
            (UP, PEER_MAC, [2, 0, 0, 0, 0, 1], 1500)
        );
        assert!(lab.neighbors().contains("managed"), "{}", lab.neighbors());
        assert_eq!(running.route4("192.0.2.1"), Lookup::Local);
        let source = running.routes.load().source_v4("8.8.8.8".parse().unwrap());
        assert_eq!(source, Some("192.0.2.1".parse().unwrap()));
        running.router.stop().await;
        assert!(
            !lab.neighbors().contains("192.0.2.2"),
            "{}",
            lab.neighbors()
        );
    });
}

#[test]
fn routes_are_followed_live() {
    in_lab(async |lab| {
        let running = start().await;
        assert_eq!(running.route4("203.0.113.1"), Lookup::NoRoute);
        for (line, expected) in [
            ("route add blackhole 203.0.113.0/24", Lookup::Blackhole),
            ("route replace prohibit 203.0.113.0/24", Lookup::Prohibited),
            (
                "route replace unreachable 203.0.113.0/24",
                Lookup::Unreachable,
            ),
            ("route replace throw 203.0.113.0/24", Lookup::NoRoute),
            ("route replace 203.0.113.0/24 dev lo", Lookup::Elsewhere),
        ] {
            lab.ip("link set lo up");
            lab.ip(line);
            running
                .eventually(line, |r| r.route4("203.0.113.1") == expected)
                .await;
        }
        let before = running.routes.load().generation();
        lab.ip("route replace 203.0.113.0/24 via 192.0.2.2 mtu 1280");
        running
            .eventually("by the gateway, with the route's MTU", |r| {
                r.hop4("203.0.113.1").is_some_and(|hop| hop.mtu == 1280)
            })
            .await;
        assert!(running.routes.load().generation() > before);
        lab.ip("route add blackhole 203.0.113.0/24 metric 100");
        lab.ip("route del 203.0.113.0/24 via 192.0.2.2 mtu 1280");
        running
            .eventually("the route of the next metric", |r| {
                r.route4("203.0.113.1") == Lookup::Blackhole
            })
            .await;
        lab.ip("route del blackhole 203.0.113.0/24");
        running
            .eventually("no route", |r| r.route4("203.0.113.1") == Lookup::NoRoute)
            .await;
        running
            .eventually("no route's gateway is let go", |_| {
                !lab.neighbors().contains("managed")
            })
            .await;
        running.router.stop().await;
    });
}

#[test]
fn an_ipv6_gateway_may_be_link_local() {
    in_lab(async |lab| {
        let running = start().await;
        lab.ip("-6 route add default via fe80::2 dev up0 src 2001:db8::1");
        running
            .eventually("the gateway has answered", |r| {
                r.hop6("2001:db8:9::9").is_some()
            })
            .await;
        assert_eq!(
            running.hop6("2001:db8:9::9").unwrap().destination_mac,
            PEER_MAC
        );
        let snapshot = running.routes.load_full();
        let source = snapshot.source_v6("2001:db8:9::9".parse().unwrap());
        assert_eq!(source, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(running.route6("2001:db8::1"), Lookup::Local);
        lab.ip("-6 route replace default proto static nexthop via fe80::2 dev up0 nexthop via 2001:db8::2");
        running
            .eventually("both legs are resolved", |r| {
                r.router
                    .neighbors()
                    .iter()
                    .filter(|n| n.is_gateway && n.is_used)
                    .count()
                    == 2
            })
            .await;
        running.router.stop().await;
    });
}

#[test]
fn an_on_link_neighbor_is_resolved_when_wished_for() {
    in_lab(async |lab| {
        let running = start().await;
        for dst in ["192.0.2.3", "2001:db8::2"] {
            let ip = dst.parse().unwrap();
            let lookup = |r: &Running| {
                if dst.contains(':') {
                    r.route6(dst)
                } else {
                    r.route4(dst)
                }
            };
            assert_eq!(
                lookup(&running),
                Lookup::Unresolved {
                    port: UP,
                    ip,
                    mtu: 1500
                }
            );
            running.router.resolve(UP, ip);
            running
                .eventually(dst, |r| matches!(lookup(r), Lookup::Hop(_)))
                .await;
        }
        running
            .router
            .resolve(PortId(9), "192.0.2.3".parse().unwrap());
        running.router.stop().await;
        assert!(
            !lab.neighbors().contains("192.0.2.3"),
            "{}",
            lab.neighbors()
        );
    });
}

#[test]
fn a_dead_neighbor_is_forgotten_and_may_come_alive() {
    in_lab(async |lab| {
        let running = start().await;
        let dead = "192.0.2.77".parse().unwrap();
        running.router.resolve(UP, dead);
        running
            .eventually("the kernel asks", |_| {
                lab.neighbors().contains("192.0.2.77")
            })
            .await;
        running
            .eventually("the failed entry is removed", |_| {
                !lab.neighbors().contains("192.0.2.77")
            })
            .await;
        assert!(matches!(
            running.route4("192.0.2.77"),
            Lookup::Unresolved { .. }
        ));
        lab.address(&lab.peer, "p0", "192.0.2.77/24");
        running
            .eventually("it answers", |r| {
                r.router.resolve(UP, dead);
                r.hop4("192.0.2.77").is_some()
            })
            .await;
        running.router.stop().await;
    });
}

#[test]
fn a_gateway_that_changes_its_mac_address_is_followed() {
    in_lab(async |lab| {
        lab.ip("route add default via 192.0.2.2");
        // Otherwise the kernel takes no other MAC address for a second.
        std::fs::write("/proc/sys/net/ipv4/neigh/up0/locktime", "0").unwrap();
        let running = start().await;
        running
            .eventually("resolved", |r| r.hop4("8.8.8.8").is_some())
            .await;
        ip(&[
            "netns",
            "exec",
            &lab.peer,
            "sh",
            "-c",
            "echo 1 > /proc/sys/net/ipv4/conf/p0/arp_notify",
        ]);
        lab.peer_ip("link set p0 address 02:00:00:00:00:33");
        running
            .eventually("the new MAC address", |r| {
                r.hop4("8.8.8.8")
                    .is_some_and(|hop| hop.destination_mac[5] == 0x33)
            })
            .await;
        running.router.stop().await;
    });
}

#[test]
fn links_are_followed_live() {
    in_lab(async |lab| {
        lab.ip("route add default via 192.0.2.2");
        let running = start().await;
        let state = |r: &Running| r.router.interfaces()[0].clone();
        running
            .eventually("resolved", |r| r.hop4("8.8.8.8").is_some())
            .await;

        lab.ip("link set up0 mtu 1400");
        running
            .eventually("the new MTU", |r| {
                r.hop4("8.8.8.8").is_some_and(|hop| hop.mtu == 1400)
            })
            .await;
        lab.ip("addr add 198.51.100.1/24 dev up0");
        running
            .eventually("the new address", |r| {
                r.route4("198.51.100.1") == Lookup::Local
            })
            .await;

        lab.peer_ip("link set p0 down");
        running
            .eventually("no carrier", |r| {
                !state(r).has_carrier && r.hop4("8.8.8.8").is_none()
            })
            .await;
        lab.peer_ip("link set p0 up");
        running
            .eventually("resolved again", |r| {
                state(r).is_up() && r.hop4("8.8.8.8").is_some()
            })
            .await;

        lab.ip("link set up0 down");
        running
            .eventually("down, and the kernel has dropped the route", |r| {
                !state(r).is_admin_up && r.route4("8.8.8.8") == Lookup::NoRoute
            })
            .await;
        lab.ip("link set up0 address 02:00:00:00:00:44");
        lab.ip("link set up0 up");
        lab.ip("route add default via 192.0.2.2");
        running
            .eventually("the new MAC address of our own", |r| {
                r.hop4("8.8.8.8")
                    .is_some_and(|hop| hop.source_mac[5] == 0x44)
            })
            .await;

        lab.ip("link del up0");
        running
            .eventually("gone", |r| {
                !state(r).is_present && r.route4("192.0.2.1") == Lookup::NoRoute
            })
            .await;
        lab.connect();
        lab.ip("route add default via 192.0.2.2");
        running
            .eventually("back", |r| {
                state(r).is_present && r.hop4("8.8.8.8").is_some()
            })
            .await;
        running.router.stop().await;
    });
}

#[test]
fn twenty_thousand_routes_are_loaded_though_notifications_are_lost() {
    in_lab(async |lab| {
        let running = start().await;
        let file = std::env::temp_dir().join(format!("{}.batch", lab.gateway));
        let batch: String = (0..20_000)
            .map(|n| format!("route add 10.{}.{}.0/24 via 192.0.2.2\n", n / 256, n % 256))
            .collect();
        std::fs::write(&file, batch).unwrap();
        // The runtime has one thread, and this blocks it: the router cannot read meanwhile, and
        // 20,000 notifications of 768 octets do not fit its socket's buffer of 8 MiB.
        lab.ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        running
            .eventually("all routes", |r| {
                r.hop4("10.78.31.1").is_some() && r.routes.load().table().len().0 >= 20_000
            })
            .await;
        assert!(running.router.notifications_lost() > 0);
        lab.ip("route flush root 10.0.0.0/8");
        running
            .eventually("none", |r| r.route4("10.78.31.1") == Lookup::NoRoute)
            .await;
        running.router.stop().await;
    });
}

#[test]
fn a_stale_entry_of_the_host_is_refreshed_before_it_is_used() {
    in_lab(async |lab| {
        lab.ip("neigh add 192.0.2.3 dev up0 lladdr 02:00:00:00:00:99 nud stale");
        lab.ip("neigh add 192.0.2.9 dev up0 lladdr 02:00:00:00:00:09 nud permanent");
        let running = start().await;
        assert!(matches!(
            running.route4("192.0.2.3"),
            Lookup::Unresolved { .. }
        ));
        assert_eq!(running.hop4("192.0.2.9").unwrap().destination_mac[5], 9);
        running.router.resolve(UP, "192.0.2.3".parse().unwrap());
        running.router.resolve(UP, "192.0.2.9".parse().unwrap());
        running
            .eventually("used", |r| r.hop4("192.0.2.3").is_some())
            .await;
        running.router.stop().await;
        let after = lab.neighbors();
        assert!(
            after.contains("192.0.2.3") && !after.contains("managed"),
            "{after}"
        );
        assert!(after.contains("PERMANENT"), "{after}");
    });
}

#[test]
fn an_interface_that_cannot_be_used_is_refused_by_name() {
    in_lab(async |_| {
        let routes = Arc::new(ArcSwap::from_pointee(RouteSnapshot::default()));
        let spec = |name: &str| {
            vec![PortSpec {
                name: name.into(),
                vlan: None,
            }]
        };
        let missing = Router::start(spec("up9"), Arc::clone(&routes)).await;
        assert!(
            matches!(missing, Err(NetlinkError::MissingInterface { name, .. }) if name == "up9")
        );
        let loopback = Router::start(spec("lo"), Arc::clone(&routes)).await;
        assert!(matches!(loopback, Err(NetlinkError::NotEthernet { name }) if name == "lo"));
    });
}
