//! Clients in the upstream's own /64, in the manner of RFC 4389: whoever is about to take an
//! address on the downstream interface, or sends from one, gets a route there, and this host
//! answers for it on the upstream interface.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::bind;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;

use super::Common;
use super::host::Change;
use super::journal::JournalError;

/// Clients at most: what a link's hosts can make this host remember is bounded.
const CLIENTS_MAX: usize = 1024;
/// A client that has been silent for so long makes room for another: hosts take new addresses every day.
const SILENT: Duration = Duration::from_secs(3600);
/// What goes wrong for clients is told no more often.
const TELL_EVERY: Duration = Duration::from_secs(60);
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV6_HEADER: usize = 40;
const NEIGHBOR_SOLICITATION: u8 = 135;
const ICMPV6: u8 = 58;
/// What the kernel keeps of each packet for this socket.
const OCTETS_MAX: u32 = 128;
/// PACKET_OUTGOING of packet(7), and where a filter reads the type (SKF_AD_OFF + SKF_AD_PKTTYPE).
const OUTGOING: u32 = 4;
const PACKET_TYPE: u32 = 0xffff_f004;

/// A filter in the kernel: of what comes in, neighbour solicitations, and all from the prefix.
fn filter(prefix: Ipv6Addr) -> [SockFilter; 12] {
    let bits = u128::from(prefix);
    let word = |shift: u32| u32::try_from(bits >> shift & 0xffff_ffff).unwrap_or(0);
    let (load_octet, load_word, jump_if, answer) = (0x30, 0x20, 0x15, 0x06);
    [
        (load_octet, 0, 0, PACKET_TYPE),
        (jump_if, 9, 0, OUTGOING),
        (load_octet, 0, 0, 6),
        (jump_if, 0, 2, u32::from(ICMPV6)),
        (load_octet, 0, 0, 40),
        (jump_if, 4, 0, u32::from(NEIGHBOR_SOLICITATION)),
        (load_word, 0, 0, 8),
        (jump_if, 0, 3, word(96)),
        (load_word, 0, 0, 12),
        (jump_if, 0, 1, word(64)),
        (answer, 0, 0, OCTETS_MAX),
        (answer, 0, 0, 0),
    ]
    .map(|(code, yes, no, value)| SockFilter::new(code, yes, no, value))
}

/// Opens a socket that sees the clients of a prefix on an interface.
pub fn open(interface: &str, prefix: Ipv6Addr) -> io::Result<UdpSocket> {
    let protocol = Protocol::from(i32::from(ETHERTYPE_IPV6.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.attach_filter(&filter(prefix))?;
    let addresses = nix::ifaddrs::getifaddrs()?;
    let link = addresses
        .filter(|one| one.interface_name == interface)
        .find_map(|one| one.address?.as_link_addr().copied())
        .ok_or(io::ErrorKind::NotFound)?;
    bind(socket.as_raw_fd(), &link)?;
    // A packet socket in the type that tokio has for datagrams: the calls are the same.
    UdpSocket::from_std(socket.into())
}

/// Sees clients and answers for them until the task is dropped.
pub async fn serve(socket: UdpSocket, common: Arc<Common>) {
    let mut clients = Clients::default();
    let mut told_at: Option<Instant> = None;
    let mut octets = [0; 256];
    loop {
        let Ok(length) = socket.recv(&mut octets).await else {
            continue;
        };
        let Some(client) = client_of(&octets[..length]) else {
            continue;
        };
        let prefixes = &common.network.prefixes;
        let is_proxied = prefixes
            .iter()
            .any(|prefix| !prefix.on_link && is_in(client, prefix.address));
        let now = Instant::now();
        if !is_proxied || clients.knows(client, now) || is_of_host(client) {
            continue;
        }
        let reason = match clients.admit(client, now) {
            Ok(gone) => {
                let common = Arc::clone(&common);
                // Netlink is waited for.
                let task = move || answer_for(&common, client, gone);
                match tokio::task::spawn_blocking(task).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => error.to_string(),
                    Err(panic) => panic.to_string(),
                }
            }
            Err(Full) => {
                format!("{CLIENTS_MAX} addresses of clients are in use, and no more are followed")
            }
        };
        // It is tried again when the client sends again.
        clients.forget(client);
        if told_at.is_none_or(|at| at + TELL_EVERY <= now) {
            told_at = Some(now);
            tracing::warn!("no native IPv6 for {client}: {reason}");
        }
    }
}

/// The clients that are answered for, and when each was last heard.
#[derive(Debug, Default)]
struct Clients(BTreeMap<Ipv6Addr, Instant>);

/// All of them were heard of late.
#[derive(Debug, PartialEq, Eq)]
struct Full;

impl Clients {
    /// Whether it is answered for; it is heard now.
    fn knows(&mut self, client: Ipv6Addr, now: Instant) -> bool {
        let heard = self.0.get_mut(&client).map(|heard| *heard = now);
        heard.is_some()
    }

    /// Takes a new one, in place of one that has been silent if there is no room.
    fn admit(&mut self, client: Ipv6Addr, now: Instant) -> Result<Option<Ipv6Addr>, Full> {
        let gone = match self.0.len() < CLIENTS_MAX {
            true => None,
            false => Some(self.silent(now).ok_or(Full)?),
        };
        if let Some(gone) = gone {
            self.forget(gone);
        }
        self.0.insert(client, now);
        Ok(gone)
    }

    /// Who has been silent for the longest time, if that is long enough.
    fn silent(&self, now: Instant) -> Option<Ipv6Addr> {
        let (client, heard) = self.0.iter().min_by_key(|(_, heard)| **heard)?;
        (*heard + SILENT <= now).then_some(*client)
    }

    fn forget(&mut self, client: Ipv6Addr) {
        self.0.remove(&client);
    }
}

fn changes(common: &Common, client: Ipv6Addr) -> [Change; 2] {
    [
        Change::Route {
            interface: common.network.downstream.clone(),
            ip: client,
        },
        Change::Proxy {
            interface: common.network.upstream.clone(),
            ip: client,
        },
    ]
}

/// Answers for a client, and no longer for one that is gone. One of which the host refuses a part is not answered for.
fn answer_for(
    common: &Common,
    client: Ipv6Addr,
    gone: Option<Ipv6Addr>,
) -> Result<(), JournalError> {
    let journal = &common.journal;
    for change in gone.into_iter().flat_map(|gone| changes(common, gone)) {
        journal.unmake(&change)?;
    }
    let made = changes(common, client)
        .into_iter()
        .try_for_each(|change| journal.make(change));
    if made.is_err() {
        for change in changes(common, client) {
            // What cannot be put back now is put back at the end.
            let _ = journal.unmake(&change);
        }
    }
    made.inspect(|()| tracing::debug!("answers for {client}"))
}

/// Who has sent a packet: its source; or, while it asks whether it may have an address, that one
/// (RFC 4862 section 5.4.2).
fn client_of(octets: &[u8]) -> Option<Ipv6Addr> {
    let address = |at: usize| {
        let octets: [u8; 16] = octets.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets))
    };
    let source = address(8)?;
    if !source.is_unspecified() {
        return Some(source);
    }
    // RFC 4861 section 7.1.1: what was forwarded is nobody's.
    let is_solicitation =
        octets[6..8] == [ICMPV6, 255] && octets.get(IPV6_HEADER) == Some(&NEIGHBOR_SOLICITATION);
    is_solicitation.then(|| address(IPV6_HEADER + 8)).flatten()
}

fn is_in(ip: Ipv6Addr, prefix: Ipv6Addr) -> bool {
    u128::from(ip) >> 64 == u128::from(prefix) >> 64
}

fn is_of_host(ip: Ipv6Addr) -> bool {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut own = addresses.filter_map(|one| Some(one.address?.as_sockaddr_in6()?.ip()));
    own.any(|own| own == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_silent_makes_room_for_another() {
        let ip = |number: usize| {
            let number = u128::try_from(number).unwrap();
            Ipv6Addr::from(0x2001_0db8 << 96 | number)
        };
        let (mut clients, now) = (Clients::default(), Instant::now());
        for number in 0..CLIENTS_MAX {
            assert_eq!(clients.admit(ip(number), now), Ok(None));
        }
        let later = now + SILENT / 2;
        for number in (0..CLIENTS_MAX).filter(|number| *number != 7) {
            assert!(clients.knows(ip(number), later));
        }
        let new = ip(CLIENTS_MAX);
        assert_eq!(clients.admit(new, later), Err(Full));
        assert_eq!(clients.admit(new, now + SILENT), Ok(Some(ip(7))));
        assert!(clients.knows(new, now + SILENT) && !clients.knows(ip(7), now + SILENT));
        clients.forget(new);
        assert_eq!(
            clients.admit(ip(7), now + SILENT),
            Ok(None),
            "there is room again"
        );
    }

    fn solicitation(source: &str, target: &str) -> Vec<u8> {
        let mut octets = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
        octets.extend(source.parse::<Ipv6Addr>().unwrap().octets());
        octets.extend(target.parse::<Ipv6Addr>().unwrap().octets());
        octets.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        octets.extend(target.parse::<Ipv6Addr>().unwrap().octets());
        octets
    }

    #[test]
    fn rfc4862_section_5_4_2_a_client_is_known_before_it_has_its_address() {
        let tentative = solicitation("::", "2001:db8::7");
        assert_eq!(client_of(&tentative), Some("2001:db8::7".parse().unwrap()));
        let used = solicitation("2001:db8::8", "2001:db8::1");
        assert_eq!(client_of(&used), Some("2001:db8::8".parse().unwrap()));
    }

    #[test]
    fn what_is_cut_off_or_forwarded_names_nobody() {
        let mut octets = solicitation("::", "2001:db8::7");
        assert_eq!(client_of(&octets[..63]), None);
        octets[7] = 64;
        assert_eq!(client_of(&octets), None);
        assert_eq!(client_of(&[]), None);
    }
}
