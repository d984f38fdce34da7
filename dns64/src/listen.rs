//! The sockets of an address.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Socket, Type};

use crate::check::{StartError, check};
use crate::config::{Config, Protocol};

const TCP_BACKLOG: i32 = 1024;
/// Threads that serve UDP on one address when the operator names no number.
const UDP_THREADS_MAX: usize = 8;
const UDP_BUFFER_BYTES: usize = 4 << 20;

/// The sockets of every address to serve, taken before anything that the process would have to
/// undo. Questions wait in them until [`crate::Server::start_on`].
#[derive(Debug)]
pub struct Sockets {
    pub(crate) plain: Vec<Bound>,
    pub(crate) tls: Vec<(SocketAddr, Socket)>,
    pub(crate) https: Vec<(SocketAddr, Socket)>,
}

impl Sockets {
    /// Checks the configuration and binds every address.
    ///
    /// # Errors
    /// As [`crate::Server::start`].
    pub fn bind(config: &Config) -> Result<Sockets, StartError> {
        check(config)?;
        let bound = config.listen.iter().map(|addr| Bound::new(*addr, config));
        let plain = bound.collect::<Result<_, _>>()?;
        let encrypted = config.encrypted.as_ref();
        Ok(Sockets {
            plain,
            tls: encrypted.map_or(Ok(Vec::new()), |e| bind_all(&e.tls_listen, Protocol::Tls))?,
            https: encrypted.map_or(Ok(Vec::new()), |e| {
                bind_all(&e.https_listen, Protocol::Https)
            })?,
        })
    }
}

fn bind_all(
    addrs: &[SocketAddr],
    protocol: Protocol,
) -> Result<Vec<(SocketAddr, Socket)>, StartError> {
    let bound = addrs.iter().map(|addr| {
        let socket = bind_tcp(*addr, addrs).map_err(failed(*addr, protocol))?;
        Ok((*addr, socket))
    });
    bound.collect()
}

impl Sockets {
    /// What [`Sockets::bind`] would say about each address; nothing stays bound.
    pub fn probe(config: &Config) -> Vec<StartError> {
        let plain = config.listen.iter();
        let plain = plain.filter_map(|addr| Bound::new(*addr, config).err());
        let encrypted = config.encrypted.iter().flat_map(|e| {
            let tls = bind_all(&e.tls_listen, Protocol::Tls).err();
            tls.into_iter()
                .chain(bind_all(&e.https_listen, Protocol::Https).err())
        });
        plain.chain(encrypted).collect()
    }
}

/// The sockets of one address: one for TCP, one for each thread that serves UDP.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) addr: SocketAddr,
    pub(crate) tcp: Socket,
    pub(crate) udp: Vec<UdpSocket>,
}

impl Bound {
    pub(crate) fn new(addr: SocketAddr, config: &Config) -> Result<Bound, StartError> {
        let all = &config.listen;
        let tcp = bind_tcp(addr, all).map_err(failed(addr, Protocol::Tcp))?;
        // A socket that shares its port joins whoever shares it already, another gate64 even: one
        // that does not share finds out first.
        bind_udp(addr, all, false).map_err(failed(addr, Protocol::Udp))?;
        let udp = (0..udp_threads(config)).map(|_| bind_udp(addr, all, true));
        let udp = udp.collect::<io::Result<_>>();
        Ok(Bound {
            addr,
            tcp,
            udp: udp.map_err(failed(addr, Protocol::Udp))?,
        })
    }
}

fn udp_threads(config: &Config) -> usize {
    match config.udp_threads {
        // What the process may use, not what the machine has.
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(UDP_THREADS_MAX)),
        threads => threads,
    }
}

/// The words for what the kernel said about a socket.
pub(crate) fn failed(addr: SocketAddr, protocol: Protocol) -> impl FnOnce(io::Error) -> StartError {
    move |source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse { addr, protocol },
        _ => StartError::Listen {
            addr,
            protocol,
            source,
        },
    }
}

fn bind_tcp(addr: SocketAddr, all: &[SocketAddr]) -> io::Result<Socket> {
    let socket = socket(addr, Type::STREAM, all)?;
    // Connections of a server before us, still in TIME_WAIT, do not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(TCP_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket that blocks: a thread of its own waits on it.
fn bind_udp(addr: SocketAddr, all: &[SocketAddr], is_shared: bool) -> io::Result<UdpSocket> {
    let socket = socket(addr, Type::DGRAM, all)?;
    socket.set_reuse_port(is_shared)?;
    socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
    socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// `[::]` serves IPv4 as well, unless an IPv4 address has the same port.
fn socket(addr: SocketAddr, kind: Type, all: &[SocketAddr]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!serves_both(addr, all))?;
    }
    Ok(socket)
}

/// Whether an IPv6 address serves IPv4 as well, among all that are served.
pub(crate) fn serves_both(addr: SocketAddr, all: &[SocketAddr]) -> bool {
    let is_apart = all.iter().any(|a| a.is_ipv4() && a.port() == addr.port());
    addr.is_ipv6() && !is_apart
}
