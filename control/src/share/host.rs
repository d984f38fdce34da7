//! The changes that `gate64 share` makes to the host, each with what undoes it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::netlink::kernel::{Kernel, NeighborKey};

/// Priority of the rule: right behind the table of the host's own addresses, before all others.
const RULE_PRIORITY: u32 = 64;
/// Metric of a client's route: before the routes that the kernel makes of addresses (256).
const ROUTE_METRIC: u32 = 64;

/// A change to the host. It is undone from these values alone, by whoever comes next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Change {
    /// A kernel parameter below `/proc/sys`.
    Sysctl {
        /// Its path there.
        key: String,
        /// What it was.
        before: String,
        /// What it is set to.
        after: String,
    },
    /// An interface is set up.
    LinkUp {
        /// Its name.
        interface: String,
    },
    /// An address is added.
    Address {
        /// To this interface.
        interface: String,
        /// The address.
        ip: Ipv6Addr,
        /// Its prefix length.
        length: u8,
    },
    /// What comes in here and is not for the host is answered "no route".
    NoRoute {
        /// From this interface.
        interface: String,
    },
    /// A client's address is reached by this interface.
    Route {
        /// Its name.
        interface: String,
        /// The client.
        ip: Ipv6Addr,
    },
    /// Addresses of a prefix that another router has announced are on this link.
    OnLink {
        /// The interface.
        interface: String,
        /// The /64.
        prefix: Ipv6Addr,
    },
    /// What nobody has of a prefix is answered "no route".
    Unreachable {
        /// Its first address.
        prefix: Ipv6Addr,
        /// Leading bits.
        length: u8,
    },
    /// The kernel keeps neighbours fresh that the gateway asks it to.
    Neighbors {
        /// On this interface.
        interface: String,
        /// Those that it kept fresh before, for someone else.
        before: Vec<IpAddr>,
    },
    /// The host answers for a client's address on this interface (RFC 4389).
    Proxy {
        /// Its name.
        interface: String,
        /// The client.
        ip: Ipv6Addr,
    },
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was made and has to be undone.
    Now,
    /// It was so already, by someone else.
    Already,
}

/// Why the host did not take a change.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A kernel parameter.
    #[error("cannot set {key} to {value}: {source}")]
    Sysctl {
        /// Its path below `/proc/sys`.
        key: String,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// An interface that is not there.
    #[error("there is no interface {0:?}")]
    NoInterface(String),
    /// A request by netlink.
    #[error("the kernel refuses to {what}: {source}")]
    Netlink {
        /// What was to be done.
        what: String,
        /// Its answer.
        source: rtnetlink::Error,
    },
    /// No netlink socket.
    #[error("cannot talk to the kernel by netlink: {0}")]
    Open(#[source] io::Error),
}

/// The kernel of this network namespace, asked one thing after the other.
pub struct Host {
    runtime: Runtime,
    handle: rtnetlink::Handle,
}

impl Host {
    /// Opens a netlink socket in the network namespace of the calling thread. Not to be used from
    /// within an asynchronous task: each request waits for its answer.
    pub fn open() -> Result<Host, HostError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HostError::Open)?;
        let context = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().map_err(HostError::Open)?;
        drop(context);
        runtime.spawn(connection);
        Ok(Host { runtime, handle })
    }

    /// Makes a change.
    pub fn make(&self, change: &Change) -> Result<Made, HostError> {
        if let Change::Sysctl { key, after, .. } = change {
            return write_sysctl(key, after).map(|()| Made::Now);
        }
        match self.runtime.block_on(self.request(change, true))? {
            Err(error) if is_errno(&error, libc::EEXIST) => Ok(Made::Already),
            Err(source) => Err(HostError::Netlink {
                what: text(change),
                source,
            }),
            Ok(()) => Ok(Made::Now),
        }
    }

    /// Undoes a change; one that is undone already, or whose interface is gone, is no error.
    pub fn undo(&self, change: &Change) -> Result<(), HostError> {
        match change {
            Change::Sysctl { key, before, after } => return undo_sysctl(key, before, after),
            Change::Neighbors { interface, before } => return self.release(interface, before),
            _ => {}
        }
        let gone = [
            libc::ENOENT,
            libc::ESRCH,
            libc::EADDRNOTAVAIL,
            libc::ENODEV,
            libc::ENXIO,
        ];
        match self.runtime.block_on(self.request(change, false)) {
            Ok(Err(error)) if gone.iter().any(|errno| is_errno(&error, *errno)) => Ok(()),
            Ok(Err(source)) => Err(HostError::Netlink {
                what: format!("undo: {}", text(change)),
                source,
            }),
            Ok(Ok(())) | Err(HostError::NoInterface(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Neighbours of an interface that the kernel keeps fresh (NTF_EXT_MANAGED).
    pub fn kept_neighbors(&self, interface: &str) -> Result<Vec<IpAddr>, HostError> {
        let kept = self.runtime.block_on(kept_neighbors(interface))?;
        Ok(kept.1.into_iter().map(|(_, ip)| ip).collect())
    }

    /// The kernel stops keeping neighbours fresh; they stay as ordinary entries until it drops them.
    fn release(&self, interface: &str, before: &[IpAddr]) -> Result<(), HostError> {
        if index(interface).is_err() {
            return Ok(());
        }
        self.runtime.block_on(async {
            let (kernel, kept) = kept_neighbors(interface).await?;
            for key in kept.into_iter().filter(|(_, ip)| !before.contains(ip)) {
                // One that has gone meanwhile is released too.
                if let Err(error) = kernel.leave_alone(key).await {
                    tracing::debug!("{} stays a kept neighbour: {error}", key.1);
                }
            }
            Ok(())
        })
    }

    async fn request(
        &self,
        change: &Change,
        make: bool,
    ) -> Result<Result<(), rtnetlink::Error>, HostError> {
        let handle = &self.handle;
        Ok(match change {
            // Written through /proc, above; made by the gateway, as packets come.
            Change::Sysctl { .. } | Change::Neighbors { .. } => Ok(()),
            Change::LinkUp { interface } => {
                let link = LinkUnspec::new_with_index(index(interface)?);
                let link = if make { link.up() } else { link.down() };
                handle.link().change(link.build()).execute().await
            }
            Change::Address {
                interface,
                ip,
                length,
            } => {
                let index = index(interface)?;
                let mut add = handle.address().add(index, IpAddr::V6(*ip), *length);
                if make {
                    // Without duplicate address detection: on a link without a carrier it would not
                    // end, and the prefix is this router's own.
                    let flags = AddressAttribute::Flags(AddressFlags::Nodad);
                    add.message_mut().attributes.push(flags);
                    add.execute().await
                } else {
                    let message = add.message_mut().clone();
                    handle.address().del(message).execute().await
                }
            }
            Change::NoRoute { interface } => {
                let rule = handle.rule();
                if make {
                    let rule = rule.add().v6().input_interface(interface.clone());
                    let rule = rule.action(RuleAction::Unreachable);
                    rule.priority(RULE_PRIORITY).execute().await
                } else {
                    rule.del(no_route_rule(interface)).execute().await
                }
            }
            Change::Route { interface, ip } => self.route(interface, *ip, 128, make).await?,
            Change::OnLink { interface, prefix } => {
                self.route(interface, *prefix, 64, make).await?
            }
            Change::Unreachable { prefix, length } => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(*prefix, *length)
                    .kind(RouteType::Unreachable)
                    .priority(ROUTE_METRIC)
                    .build();
                match make {
                    true => handle.route().add(route).execute().await,
                    false => handle.route().del(route).execute().await,
                }
            }
            Change::Proxy { interface, ip } => {
                let mut add = handle
                    .neighbours()
                    .add(index(interface)?, IpAddr::V6(*ip))
                    .state(NeighbourState::None)
                    .flags(NeighbourFlags::Proxy)
                    .kind(RouteType::Unspec);
                if make {
                    add.execute().await
                } else {
                    let message = add.message_mut().clone();
                    handle.neighbours().del(message).execute().await
                }
            }
        })
    }

    async fn route(
        &self,
        interface: &str,
        ip: Ipv6Addr,
        length: u8,
        make: bool,
    ) -> Result<Result<(), rtnetlink::Error>, HostError> {
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(ip, length)
            .output_interface(index(interface)?)
            .priority(ROUTE_METRIC)
            .build();
        Ok(if make {
            self.handle.route().add(route).execute().await
        } else {
            self.handle.route().del(route).execute().await
        })
    }
}

async fn kept_neighbors(interface: &str) -> Result<(Kernel, Vec<NeighborKey>), HostError> {
    let index = index(interface)?;
    let kernel = Kernel::open().map_err(HostError::Open)?;
    let all = kernel.neighbors().await;
    let all = all.map_err(|source| HostError::Netlink {
        what: format!("list the neighbours on {interface}"),
        source,
    })?;
    let kept = all
        .into_iter()
        .filter(|((on, _), neighbor)| *on == index && neighbor.is_managed);
    let kept = kept.map(|(key, _)| key).collect();
    Ok((kernel, kept))
}

fn no_route_rule(interface: &str) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet6;
    rule.header.action = RuleAction::Unreachable;
    rule.attributes = vec![
        RuleAttribute::Iifname(interface.to_owned()),
        RuleAttribute::Priority(RULE_PRIORITY),
    ];
    rule
}

fn index(interface: &str) -> Result<u32, HostError> {
    nix::net::if_::if_nametoindex(interface)
        .map_err(|_| HostError::NoInterface(interface.to_owned()))
}

fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.code.is_some_and(|code| code.get() == -errno))
}

/// A change in words.
pub fn text(change: &Change) -> String {
    match change {
        Change::Sysctl { key, after, .. } => format!("set {key} to {after}"),
        Change::LinkUp { interface } => format!("set {interface} up"),
        Change::Address {
            interface,
            ip,
            length,
            ..
        } => format!("add {ip}/{length} to {interface}"),
        Change::NoRoute { interface } => format!("answer \"no route\" to hosts on {interface}"),
        Change::Route { interface, ip } => format!("route {ip} to {interface}"),
        Change::OnLink { interface, prefix } => format!("route {prefix}/64 to {interface}"),
        Change::Neighbors { interface, .. } => format!("keep neighbours on {interface} fresh"),
        Change::Unreachable { prefix, length } => format!("reject {prefix}/{length}"),
        Change::Proxy { interface, ip } => format!("answer for {ip} on {interface}"),
    }
}

fn sysctl_path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

/// The value of a kernel parameter; `None` if there is none of that name.
pub fn sysctl(key: &str) -> Option<String> {
    let text = fs::read_to_string(sysctl_path(key)).ok()?;
    Some(text.trim().to_owned())
}

fn write_sysctl(key: &str, value: &str) -> Result<(), HostError> {
    fs::write(sysctl_path(key), value).map_err(|source| HostError::Sysctl {
        key: key.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// What someone else has set meanwhile stays.
fn undo_sysctl(key: &str, before: &str, after: &str) -> Result<(), HostError> {
    match sysctl(key) {
        Some(now) if now == after => write_sysctl(key, before),
        _ => Ok(()),
    }
}
