//! The ICMPv6 socket of a link: what RFC 4861 asks of solicitations and advertisements that
//! arrive (section 6.1), and of those that leave (hop limit 255, link-local source).

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::message::{self, RouterAdvertisement};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// What has been forwarded has less (section 6.1).
const HOP_LIMIT: u8 = 255;

/// What has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A host asks for an advertisement.
    Solicitation(Ipv6Addr),
    /// Another router advertises.
    Advertisement(Ipv6Addr, RouterAdvertisement),
}

/// The socket of one link.
pub struct RaSocket {
    /// A raw socket in the type that tokio has for datagrams: the calls are the same.
    socket: UdpSocket,
    index: u32,
    /// Its source address.
    pub link_local: Ipv6Addr,
}

impl RaSocket {
    /// Opens it on an interface, with that link-local address as the source.
    pub fn open(interface: &str, index: u32, link_local: Ipv6Addr) -> io::Result<RaSocket> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV6::new(link_local, 0, 0, index).into())?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        // Other routers speak to all nodes.
        socket.join_multicast_v6(&ALL_NODES, index)?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_multicast_hops_v6(u32::from(HOP_LIMIT))?;
        socket.set_unicast_hops_v6(u32::from(HOP_LIMIT))?;
        socket.set_recv_hoplimit_v6(true)?;
        Ok(RaSocket {
            socket: UdpSocket::from_std(socket.into())?,
            index,
            link_local,
        })
    }

    /// Sends an advertisement to one host, or to all nodes.
    pub async fn send(&self, message: &[u8], to: Option<Ipv6Addr>) -> io::Result<()> {
        let to = SocketAddrV6::new(to.unwrap_or(ALL_NODES), 0, 0, self.index);
        self.socket.send_to(message, to).await.map(drop)
    }

    /// The next valid solicitation or advertisement.
    pub async fn receive(&self) -> io::Result<Received> {
        loop {
            let read = || receive(&self.socket);
            if let Some(received) = self.socket.async_io(Interest::READABLE, read).await? {
                return Ok(received);
            }
        }
    }
}

/// Nothing if what arrived is neither, or is not valid.
fn receive(socket: &UdpSocket) -> io::Result<Option<Received>> {
    let mut octets = [0; 2048];
    let mut control = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut octets)];
    let (length, hop_limit, from) = {
        let message = recvmsg::<SockaddrIn6>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let hop_limit = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6HopLimit(limit) => Some(limit),
            _ => None,
        });
        (message.bytes, hop_limit, message.address)
    };
    let (Some(from), Some(hop_limit)) = (from, hop_limit) else {
        return Ok(None);
    };
    if hop_limit != i32::from(HOP_LIMIT) {
        return Ok(None);
    }
    Ok(judge(&octets[..length], from.ip()))
}

/// RFC 4861 sections 6.1.1 and 6.1.2, but for the hop limit and the checksum, which the kernel
/// has verified.
fn judge(octets: &[u8], from: Ipv6Addr) -> Option<Received> {
    match *octets.first()? {
        message::ROUTER_SOLICITATION => {
            let has_source_option = solicitation_source(octets)?;
            // A host without an address has none to go with its Ethernet address.
            let is_valid = !(from.is_unspecified() && has_source_option);
            is_valid.then_some(Received::Solicitation(from))
        }
        message::ROUTER_ADVERTISEMENT if from.is_unicast_link_local() => {
            let advertisement = message::decode(octets).ok()?;
            Some(Received::Advertisement(from, advertisement))
        }
        _ => None,
    }
}

/// Whether a solicitation has a source link-layer address option; nothing if it is malformed.
fn solicitation_source(octets: &[u8]) -> Option<bool> {
    let (head, mut rest) = octets.split_first_chunk::<8>()?;
    (head[1] == 0).then_some(())?;
    let mut has_source = false;
    while let [kind, units, ..] = *rest {
        (units > 0).then_some(())?;
        has_source |= kind == 1;
        rest = rest.get(usize::from(units) * 8..)?;
    }
    rest.is_empty().then_some(has_source)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);

    #[test]
    fn rfc4861_section_6_1_1_solicitations_are_judged() {
        let bare = [133, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(judge(&bare, HOST), Some(Received::Solicitation(HOST)));
        let nobody = Ipv6Addr::UNSPECIFIED;
        assert_eq!(judge(&bare, nobody), Some(Received::Solicitation(nobody)));
        let mut with_source = bare.to_vec();
        with_source.extend([1, 1, 2, 0, 0, 0, 0, 9]);
        assert!(judge(&with_source, HOST).is_some());
        assert_eq!(judge(&with_source, nobody), None);
        assert_eq!(judge(&with_source[..12], HOST), None);
        with_source[9] = 0;
        assert_eq!(judge(&with_source, HOST), None, "an option of length zero");
        assert_eq!(judge(&bare[..7], HOST), None);
        let code = [133, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(judge(&code, HOST), None);
    }

    #[test]
    fn rfc4861_section_6_1_2_advertisements_come_from_link_local_addresses() {
        let octets = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(
            judge(&octets, HOST),
            Some(Received::Advertisement(from, message)) if from == HOST && message.router_lifetime == 1800
        ));
        assert_eq!(judge(&octets, "2001:db8::1".parse().unwrap()), None);
        assert_eq!(judge(&[], HOST), None);
        assert_eq!(judge(&[135, 0, 0, 0], HOST), None);
    }
}
