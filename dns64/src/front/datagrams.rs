//! Many datagrams per system call: recvmmsg and sendmmsg over memory that is reserved once.
//!
//! Own code, since no kept crate has both calls with a source address per datagram: quinn-udp
//! sends one datagram per call, nix gives one set of control messages to a whole sendmmsg.

use std::io;
use std::mem::{self, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use crate::upstream::UDP_PAYLOAD_MAX;

/// Datagrams per system call.
pub(super) const BATCH: usize = 64;
/// The longest query that is read; a longer one is cut, and seen to be.
const QUERY_OCTETS_MAX: usize = 2048;
/// The longest answer that is sent.
pub(super) const ANSWER_OCTETS_MAX: usize = UDP_PAYLOAD_MAX as usize;
/// Room for one IPV6_PKTINFO or IP_PKTINFO: a header of 16 octets, then at most 20, padded.
const CONTROL_OCTETS: usize = 40;
/// Octets of `struct cmsghdr` before its data.
const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_OCTETS]);

/// The memory of one direction. The headers and vectors hold pointers only while a call runs:
/// they are set right before it.
struct Lane<const OCTETS: usize> {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    octets: Box<[[u8; OCTETS]]>,
    paths: Box<[ReturnPath]>,
}

/// Where an answer goes, and from which of our addresses.
#[derive(Clone, Copy)]
pub(super) struct ReturnPath {
    client: libc::sockaddr_in6,
    client_len: libc::socklen_t,
    control: Control,
    control_len: usize,
}

/// The datagrams of one system call, and the answers to them.
pub(super) struct Datagrams {
    socket: Arc<UdpSocket>,
    queries: Lane<QUERY_OCTETS_MAX>,
    answers: Lane<ANSWER_OCTETS_MAX>,
    /// Lengths of the answers.
    answer_lens: [usize; BATCH],
    /// Datagrams of the last `receive`.
    received: usize,
    /// Answers that wait for `send`.
    queued: usize,
    /// Octets of control messages that may come with a datagram: none unless the socket listens
    /// on a wildcard address.
    control_len: usize,
}

// SAFETY: the pointers in the lanes' headers and vectors are only followed by the kernel during a
// call, right after they were set; all else is owned.
unsafe impl Send for Datagrams {}

impl<const OCTETS: usize> Lane<OCTETS> {
    fn new() -> Lane<OCTETS> {
        // SAFETY: integers and null pointers: all zero is a value of `mmsghdr`.
        let header: libc::mmsghdr = unsafe { mem::zeroed() };
        let vector = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Lane {
            headers: vec![header; BATCH].into(),
            vectors: vec![vector; BATCH].into(),
            octets: vec![[0; OCTETS]; BATCH].into(),
            paths: vec![ReturnPath::none(); BATCH].into(),
        }
    }

    /// Points header `n` at its vector, octets and return path, for a call.
    fn point(&mut self, n: usize, len: usize) {
        let path = &mut self.paths[n];
        self.vectors[n] = libc::iovec {
            iov_base: self.octets[n].as_mut_ptr().cast(),
            iov_len: len.min(OCTETS),
        };
        let header = &mut self.headers[n].msg_hdr;
        header.msg_iov = &raw mut self.vectors[n];
        header.msg_iovlen = 1;
        header.msg_flags = 0;
        path.point(header);
    }
}

impl Datagrams {
    /// `is_wildcard`: the kernel says to which of our addresses each query came, and the answer
    /// leaves from there.
    ///
    /// # Errors
    /// The kernel refuses to say it.
    pub(super) fn new(socket: Arc<UdpSocket>, is_wildcard: bool) -> io::Result<Datagrams> {
        if is_wildcard {
            tell_destination(&socket)?;
        }
        Ok(Datagrams {
            socket,
            queries: Lane::new(),
            answers: Lane::new(),
            answer_lens: [0; BATCH],
            received: 0,
            queued: 0,
            control_len: if is_wildcard { CONTROL_OCTETS } else { 0 },
        })
    }

    /// Waits for a datagram and takes what else is there, up to [`BATCH`]. Forgets the last ones.
    ///
    /// # Errors
    /// What the kernel said; `Interrupted` is for the caller to try again.
    pub(super) fn receive(&mut self) -> io::Result<usize> {
        // Few came, so few will come: not all of the memory is made ready for them.
        let ready = (2 * self.received).clamp(BATCH / 8, BATCH);
        self.received = 0;
        self.queued = 0;
        for n in 0..ready {
            self.queries.paths[n] = ReturnPath {
                client_len: socklen(size_of::<libc::sockaddr_in6>()),
                control_len: self.control_len,
                ..self.queries.paths[n]
            };
            self.queries.point(n, QUERY_OCTETS_MAX);
        }
        // SAFETY: `ready` headers, each just pointed at memory that `self` owns and that nobody
        // else reads or writes during the call.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                self.queries.headers.as_mut_ptr(),
                count(ready),
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        self.received = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for n in 0..self.received {
            let header = &self.queries.headers[n].msg_hdr;
            let path = &mut self.queries.paths[n];
            path.client_len = header.msg_namelen;
            path.control_len = header.msg_controllen.min(self.control_len);
        }
        Ok(self.received)
    }

    /// Datagram `n` of the last call; nothing if it did not fit.
    pub(super) fn query(&self, n: usize) -> Option<&[u8]> {
        assert!(n < self.received);
        whole(&self.queries, n)
    }

    /// Who sent datagram `n`; nothing if the kernel named no Internet address.
    pub(super) fn client(&self, n: usize) -> Option<SocketAddr> {
        assert!(n < self.received);
        socket_addr(&self.queries.paths[n].client)
    }

    /// Writes an answer to datagram `n` in place: `write` gets the query and the room, and says
    /// the answer's length, or that there is none.
    pub(super) fn answer_with(
        &mut self,
        n: usize,
        write: impl FnOnce(&[u8], &mut [u8; ANSWER_OCTETS_MAX]) -> Option<usize>,
    ) {
        assert!(n < self.received && self.queued < BATCH);
        let slot = self.queued;
        let Some(query) = whole(&self.queries, n) else {
            return;
        };
        let Some(len) = write(query, &mut self.answers.octets[slot]) else {
            return;
        };
        self.answer_lens[slot] = len;
        self.answers.paths[slot] = self.return_path(n);
        self.queued += 1;
    }

    /// How an answer to datagram `n` gets to its client later.
    pub(super) fn return_path(&self, n: usize) -> ReturnPath {
        assert!(n < self.received);
        let mut path = self.queries.paths[n];
        path.leave_the_way_open();
        path
    }

    /// Sends the queued answers. One that the kernel does not take is dropped.
    pub(super) fn send(&mut self) {
        for n in 0..self.queued {
            self.answers.point(n, self.answer_lens[n]);
        }
        let mut sent = 0;
        while sent < self.queued {
            let unsent = &mut self.answers.headers[sent..self.queued];
            // SAFETY: the headers were just pointed at memory that `self` owns; the kernel only
            // reads it.
            let done = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    unsent.as_mut_ptr(),
                    count(unsent.len()),
                    0,
                )
            };
            match usize::try_from(done) {
                Ok(done) => sent += done.max(1),
                Err(_) if interrupted() => {}
                // The first of them was refused: no route to that client, say.
                Err(_) => sent += 1,
            }
        }
        self.queued = 0;
    }
}

/// The octets of slot `n`, unless some were cut off.
fn whole<const OCTETS: usize>(lane: &Lane<OCTETS>, n: usize) -> Option<&[u8]> {
    let header = &lane.headers[n];
    match header.msg_hdr.msg_flags & libc::MSG_TRUNC {
        0 => lane.octets[n].get(..header.msg_len as usize),
        _ => None,
    }
}

fn count(n: usize) -> libc::c_uint {
    libc::c_uint::try_from(n).unwrap_or(0)
}

impl ReturnPath {
    fn none() -> ReturnPath {
        // SAFETY: integers: all zero is a value.
        let client = unsafe { mem::zeroed() };
        ReturnPath {
            client,
            client_len: 0,
            control: Control([0; CONTROL_OCTETS]),
            control_len: 0,
        }
    }

    /// Points a header at the client and the control message, for a call.
    fn point(&mut self, header: &mut libc::msghdr) {
        header.msg_name = (&raw mut self.client).cast();
        header.msg_namelen = self.client_len;
        header.msg_controllen = self.control_len;
        header.msg_control = match self.control_len {
            0 => std::ptr::null_mut(),
            _ => (&raw mut self.control).cast(),
        };
    }

    /// The answer leaves from the address that was asked, by the interface that the routes name:
    /// the one that the query came in by is forgotten, unless the address means nothing without.
    fn leave_the_way_open(&mut self) {
        if self.control_len < CONTROL_HEADER {
            self.control_len = 0;
            return;
        }
        let data = &mut self.control.0[CONTROL_HEADER..];
        // struct in_pktinfo has the interface first and is 12 octets, struct in6_pktinfo has it
        // last and is 20 (linux/in.h, linux/ipv6.h).
        if self.control_len < CONTROL_HEADER + size_of::<libc::in6_pktinfo>() {
            data[..4].fill(0);
        } else if !is_link_local(&data[..16]) {
            data[16..20].fill(0);
        }
    }

    /// Sends one answer from where the query came to.
    pub(super) fn send(&self, socket: &UdpSocket, octets: &[u8]) -> io::Result<()> {
        let mut path = *self;
        let mut vector = libc::iovec {
            iov_base: octets.as_ptr().cast_mut().cast(),
            iov_len: octets.len(),
        };
        // SAFETY: integers and null pointers.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        path.point(&mut header);
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        // A full buffer loses the answer rather than hold up the runtime.
        // SAFETY: the pointers are to locals that outlive the call; sendmsg only reads `octets`.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
        match sent {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// fe80::/10 (RFC 4291 section 2.5.6).
fn is_link_local(addr: &[u8]) -> bool {
    matches!(addr, [0xfe, second, ..] if second & 0xc0 == 0x80)
}

fn interrupted() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

fn socklen(len: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(len).unwrap_or(0)
}

/// Lets the kernel say with each datagram to which address it came. On an IPv6 socket that
/// serves IPv4 as well, it does so with IPv4-mapped addresses, and takes them back.
fn tell_destination(socket: &UdpSocket) -> io::Result<()> {
    let (level, option) = match socket.local_addr()? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            socklen(size_of::<libc::c_int>()),
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn socket_addr(client: &libc::sockaddr_in6) -> Option<SocketAddr> {
    let port = u16::from_be(client.sin6_port);
    let ip = match libc::c_int::from(client.sin6_family) {
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(client.sin6_addr.s6_addr)),
        // struct sockaddr_in has its address where sockaddr_in6 has the flow label.
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(client.sin6_flowinfo.to_ne_bytes())),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
