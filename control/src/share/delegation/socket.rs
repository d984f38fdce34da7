//! The client's socket: a raw one, because the host's own DHCPv6 client may have port 546, and of
//! two sockets with a port only one would get the answers.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use nix::sys::socket::SetSockOpt;
use nix::sys::socket::sockopt::SetStruct;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;

/// All_DHCP_Relay_Agents_and_Servers.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;
const UDP_HEADER: usize = 8;
/// Where the kernel computes and verifies the checksum (RFC 3542 section 3.1).
const CHECKSUM_AT: libc::c_int = 6;

/// IPV6_CHECKSUM, which nix 0.31 lacks.
#[derive(Clone)]
struct ChecksumAt;
nix::setsockopt_impl!(
    ChecksumAt,
    libc::IPPROTO_IPV6,
    libc::IPV6_CHECKSUM,
    libc::c_int,
    SetStruct<libc::c_int>
);

/// The socket of one link.
pub struct ClientSocket {
    /// A raw socket in the type that tokio has for datagrams: the calls are the same.
    socket: UdpSocket,
    index: u32,
}

impl ClientSocket {
    /// Opens it on an interface, with its link-local address as the source.
    pub fn open(interface: &str, index: u32, link_local: Ipv6Addr) -> io::Result<ClientSocket> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&to_client())?;
        ChecksumAt.set(&socket, &CHECKSUM_AT)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV6::new(link_local, 0, 0, index).into())?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_loop_v6(false)?;
        Ok(ClientSocket {
            socket: UdpSocket::from_std(socket.into())?,
            index,
        })
    }

    /// Sends a message to the servers of the link.
    pub async fn send(&self, message: &[u8]) -> io::Result<()> {
        let length = u16::try_from(UDP_HEADER + message.len()).unwrap_or(u16::MAX);
        let header = [CLIENT_PORT, SERVER_PORT, length, 0].map(u16::to_be_bytes);
        let datagram = [&header.concat(), message].concat();
        let to = SocketAddrV6::new(SERVERS, 0, 0, self.index);
        self.socket.send_to(&datagram, to).await.map(drop)
    }

    /// The next message of a server.
    pub async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut octets = [0; 2048];
        let length = self.socket.recv(&mut octets).await?;
        Ok(octets[..length]
            .get(UDP_HEADER..)
            .unwrap_or_default()
            .to_vec())
    }
}

/// A filter in the kernel: UDP to the client's port.
fn to_client() -> [SockFilter; 4] {
    let (load_half, jump_if, answer) = (0x28, 0x15, 0x06);
    [
        (load_half, 0, 0, 2),
        (jump_if, 0, 1, u32::from(CLIENT_PORT)),
        (answer, 0, 0, 0xffff),
        (answer, 0, 0, 0),
    ]
    .map(|(code, yes, no, value)| SockFilter::new(code, yes, no, value))
}
