//! The kernel's links, addresses, routes and neighbours in plain values, read by rtnetlink, and
//! the two requests that gate64 makes of it: look after a neighbour, and stop doing so.

use std::io;
use std::net::IpAddr;

use futures_util::stream::{Stream, StreamExt};
use gate64_dataplane::config::InterfaceAddress;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};
use netlink_packet_route::route::{RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::task::JoinHandle;

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
    pub is_ethernet: bool,
    pub mtu: u32,
    pub is_admin_up: bool,
    pub has_carrier: bool,
    /// Of a VLAN device: the link below and the 802.1Q id.
    pub vlan_of: Option<(u32, u16)>,
}

/// An address that packets may be sent from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub address: InterfaceAddress,
    /// Deprecated, temporary or secondary: others are preferred.
    pub is_second_choice: bool,
}

/// A neighbour's key in the kernel: index of the link, and address.
pub type NeighborKey = (u32, IpAddr);

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    pub mac: Option<[u8; 6]>,
    pub state: NeighbourState,
    /// The kernel keeps it fresh by itself (NTF_EXT_MANAGED, Linux 5.16).
    pub is_managed: bool,
}

impl Neighbor {
    /// Set by an operator: never probed, never to be changed.
    pub fn is_fixed(&self) -> bool {
        matches!(
            self.state,
            NeighbourState::Permanent | NeighbourState::Noarp
        )
    }

    /// The kernel is asking for it at this moment.
    pub fn is_in_progress(&self) -> bool {
        matches!(
            self.state,
            NeighbourState::Incomplete | NeighbourState::Delay | NeighbourState::Probe
        )
    }

    /// The MAC address, if packets may be sent to it (the kernel's NUD_VALID).
    pub fn valid_mac(&self) -> Option<[u8; 6]> {
        let is_valid = self.is_fixed()
            || matches!(
                self.state,
                NeighbourState::Reachable
                    | NeighbourState::Stale
                    | NeighbourState::Delay
                    | NeighbourState::Probe
            );
        self.mac.filter(|_| is_valid)
    }
}

/// A connection to the kernel for dumps and requests.
pub struct Kernel {
    handle: rtnetlink::Handle,
    task: JoinHandle<()>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kernel {
    /// Opens a netlink socket in the network namespace of the calling thread.
    pub fn open() -> io::Result<Kernel> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Kernel {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>, rtnetlink::Error> {
        collect(self.handle.link().get().execute(), |message| link(&message)).await
    }

    /// All addresses of both families.
    pub async fn addresses(&self) -> Result<Vec<Address>, rtnetlink::Error> {
        collect(self.handle.address().get().execute(), |message| {
            address(&message)
        })
        .await
    }

    /// All routes of one family, as messages: they are large, so each is read and dropped.
    pub async fn each_route(
        &self,
        family: AddressFamily,
        mut visit: impl FnMut(RouteMessage),
    ) -> Result<(), rtnetlink::Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut answer = Box::pin(self.handle.route().get(request).execute());
        while let Some(message) = answer.next().await {
            visit(message?);
        }
        Ok(())
    }

    /// All neighbours of both families.
    pub async fn neighbors(&self) -> Result<Vec<(NeighborKey, Neighbor)>, rtnetlink::Error> {
        collect(self.handle.neighbours().get().execute(), |message| {
            neighbor(&message)
        })
        .await
    }

    /// Asks the kernel to resolve a neighbour now and, if `managed`, to keep it fresh.
    ///
    /// NTF_USE goes along with NTF_EXT_MANAGED because a kernel before 5.16 ignores the latter
    /// silently; both start a probe.
    pub async fn look_after(
        &self,
        key: NeighborKey,
        managed: bool,
    ) -> Result<(), rtnetlink::Error> {
        let mut message = neighbor_message(key);
        message.header.flags = NeighbourFlags::Use;
        if managed {
            let flags = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
            message.attributes.push(flags);
        }
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewNeighbour(message), flags)
            .await
    }

    /// Takes NTF_EXT_MANAGED from an entry that stays.
    pub async fn leave_alone(&self, key: NeighborKey) -> Result<(), rtnetlink::Error> {
        let mut message = neighbor_message(key);
        message.header.flags = NeighbourFlags::Use;
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE)
            .await
    }

    /// Removes an entry.
    pub async fn forget(&self, key: NeighborKey) -> Result<(), rtnetlink::Error> {
        self.request(RouteNetlinkMessage::DelNeighbour(neighbor_message(key)), 0)
            .await
    }

    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answer = Box::pin(self.handle.clone().request(request)?);
        while let Some(message) = answer.next().await {
            if let NetlinkPayload::Error(error) = message.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }
}

async fn collect<M, T>(
    answer: impl Stream<Item = Result<M, rtnetlink::Error>>,
    read: impl Fn(M) -> Option<T>,
) -> Result<Vec<T>, rtnetlink::Error> {
    let mut answer = Box::pin(answer);
    let mut all = Vec::new();
    while let Some(message) = answer.next().await {
        all.extend(read(message?));
    }
    Ok(all)
}

/// A MAC address that one station can have.
fn mac_of(octets: &[u8]) -> Option<[u8; 6]> {
    let mac: [u8; 6] = octets.try_into().ok()?;
    let is_group = mac[0] & 1 != 0;
    (mac != [0; 6] && !is_group).then_some(mac)
}

fn link(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        mtu: 0,
        is_admin_up: flags.contains(LinkFlags::Up),
        has_carrier: flags.contains(LinkFlags::LowerUp),
        vlan_of: None,
    };
    let mut below = None;
    let mut vlan = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(octets) => link.mac = mac_of(octets).unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::LinkInfo(infos) => vlan = infos.iter().find_map(vlan_id),
            _ => {}
        }
    }
    link.vlan_of = below.zip(vlan);
    (!link.name.is_empty()).then_some(link)
}

fn vlan_id(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(infos)) = info else {
        return None;
    };
    infos.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut own, mut peer) = (None, None);
    let header_flags: AddressHeaderFlags = message.header.flags;
    let mut flags = AddressFlags::from_bits_retain(u32::from(header_flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => own = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    if flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed) {
        return None;
    }
    Some(Address {
        index: message.header.index,
        address: InterfaceAddress {
            ip: own.or(peer)?,
            length: message.header.prefix_len,
        },
        // IFA_F_SECONDARY is IFA_F_TEMPORARY for IPv6.
        is_second_choice: flags.intersects(AddressFlags::Deprecated | AddressFlags::Secondary),
    })
}

/// Reads a neighbour; none if it is of another family, a proxy entry or a multicast group.
pub fn neighbor(message: &NeighbourMessage) -> Option<(NeighborKey, Neighbor)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut ip, mut mac, mut is_managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                ip = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                ip = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(octets) => mac = mac_of(octets),
            NeighbourAttribute::ExtFlags(flags) => {
                is_managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    let ip = ip.filter(|ip| !ip.is_multicast())?;
    let neighbor = Neighbor {
        mac,
        state: header.state,
        is_managed,
    };
    Some(((header.ifindex, ip), neighbor))
}

fn neighbor_message((index, ip): NeighborKey) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.kind = RouteType::Unspec;
    let (family, destination) = match ip {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    let destination = NeighbourAttribute::Destination(destination);
    message.attributes.push(destination);
    message
}
