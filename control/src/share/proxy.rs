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
use super::journal::{Journal, JournalError};

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
        let reason = match clients.place_for(client, now) {
            Ok(gone) => {
                let common = Arc::clone(&common);
                // Netlink is waited for.
                let task = move || Links::of(&common).answer_for(client, gone);
                let ended = tokio::task::spawn_blocking(task).await;
                let ended = ended.unwrap_or_else(|panic| {
                    Err(Unanswered {
                        reason: panic.to_string(),
                        left: gone.or(Some(client)),
                    })
                });
                clients.settle(client, gone, &ended, now);
                match ended {
                    Ok(()) => continue,
                    Err(unanswered) => unanswered.reason,
                }
            }
            Err(Full) => {
                format!("{CLIENTS_MAX} addresses of clients are in use, and no more are followed")
            }
        };
        // It is tried again when the client sends again.
        if told_at.is_none_or(|at| at + TELL_EVERY <= now) {
            told_at = Some(now);
            tracing::warn!("no native IPv6 for {client}: {reason}");
        }
    }
}

/// The clients of which the host has anything: those that are answered for, and those of which something is left.
#[derive(Debug, Default)]
struct Clients(BTreeMap<Ipv6Addr, Client>);

#[derive(Debug, Clone, Copy)]
struct Client {
    /// When it was last heard.
    heard: Instant,
    /// When the host refused to undo a part of what was made for it. It is not answered for since then, but has its
    /// place: the bound is one on what the host has.
    left: Option<Instant>,
}

/// All of them were heard of late.
#[derive(Debug, PartialEq, Eq)]
struct Full;

/// Why a client is not answered for.
#[derive(Debug)]
struct Unanswered {
    reason: String,
    /// Of whom something is left that could not be undone: the client, or who was to make room for it.
    left: Option<Ipv6Addr>,
}

impl Clients {
    /// Whether it is answered for; it is heard now.
    fn knows(&mut self, client: Ipv6Addr, now: Instant) -> bool {
        let known = self.0.get_mut(&client).filter(|one| one.left.is_none());
        known.map(|one| one.heard = now).is_some()
    }

    /// Who makes room for a new one, if there is no room and it has no place already.
    fn place_for(&self, client: Ipv6Addr, now: Instant) -> Result<Option<Ipv6Addr>, Full> {
        match self.0.len() < CLIENTS_MAX || self.0.contains_key(&client) {
            true => Ok(None),
            false => self.silent(now).map(Some).ok_or(Full),
        }
    }

    /// Who has been silent for the longest time, if that is long enough. Those whose undoing has failed come last, by
    /// turns, so that none of them keeps the others from making room.
    fn silent(&self, now: Instant) -> Option<Ipv6Addr> {
        let may_go = |one: &Client| one.left.is_some() || one.heard + SILENT <= now;
        let who = self.0.iter().filter(|(_, one)| may_go(one));
        who.min_by_key(|(_, one)| (one.left, one.heard))
            .map(|(client, _)| *client)
    }

    /// Takes note of what became of a client and of the one that was to make room for it.
    fn settle(
        &mut self,
        client: Ipv6Addr,
        gone: Option<Ipv6Addr>,
        ended: &Result<(), Unanswered>,
        now: Instant,
    ) {
        let left = ended.as_ref().err().and_then(|unanswered| unanswered.left);
        for over in [Some(client), gone].into_iter().flatten() {
            if left != Some(over) {
                self.0.remove(&over);
            }
        }
        if let Some(who) = left {
            // When it was last heard stays as it was.
            let one = self.0.entry(who).or_insert(Client {
                heard: now,
                left: None,
            });
            one.left = Some(now);
        } else if ended.is_ok() {
            let left = None;
            self.0.insert(client, Client { heard: now, left });
        }
    }
}

/// Where clients are answered for.
struct Links<'a> {
    journal: &'a Journal,
    upstream: &'a str,
    downstream: &'a str,
}

impl Links<'_> {
    fn of(common: &Common) -> Links<'_> {
        Links {
            journal: &common.journal,
            upstream: &common.network.upstream,
            downstream: &common.network.downstream,
        }
    }

    fn changes(&self, client: Ipv6Addr) -> [Change; 2] {
        [
            Change::Route {
                interface: self.downstream.to_owned(),
                ip: client,
            },
            Change::Proxy {
                interface: self.upstream.to_owned(),
                ip: client,
            },
        ]
    }

    /// Answers for a client, and no longer for one that is gone. One of which the host refuses a part is not answered for.
    fn answer_for(&self, client: Ipv6Addr, gone: Option<Ipv6Addr>) -> Result<(), Unanswered> {
        if let Some(gone) = gone {
            self.leave(gone).map_err(|error| Unanswered {
                reason: format!("{gone}, silent for long, cannot make room for it: {error}"),
                left: Some(gone),
            })?;
        }
        let mut changes = self.changes(client).into_iter();
        let made = changes.try_for_each(|change| self.journal.make(change));
        made.map_err(|error| Unanswered {
            reason: error.to_string(),
            left: self.leave(client).is_err().then_some(client),
        })?;
        tracing::debug!("answers for {client}");
        Ok(())
    }

    /// Undoes all that the host lets be undone. The rest is undone when it is tried again, or at the end.
    fn leave(&self, client: Ipv6Addr) -> Result<(), JournalError> {
        let undone = self
            .changes(client)
            .map(|change| self.journal.unmake(&change));
        undone.into_iter().collect()
    }
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
    use super::super::native::tests::{in_namespace, ip as run_ip};
    use super::*;

    fn ip(number: usize) -> Ipv6Addr {
        let number = u128::try_from(number).unwrap();
        Ipv6Addr::from(0x2001_0db8 << 96 | number)
    }

    /// The host takes all of it.
    fn admit(
        clients: &mut Clients,
        client: Ipv6Addr,
        now: Instant,
    ) -> Result<Option<Ipv6Addr>, Full> {
        let gone = clients.place_for(client, now)?;
        clients.settle(client, gone, &Ok(()), now);
        Ok(gone)
    }

    fn full(now: Instant) -> Clients {
        let mut clients = Clients::default();
        for number in 0..CLIENTS_MAX {
            assert_eq!(admit(&mut clients, ip(number), now), Ok(None));
        }
        clients
    }

    fn unanswered(left: Option<Ipv6Addr>) -> Result<(), Unanswered> {
        let reason = "the host refuses it".to_owned();
        Err(Unanswered { reason, left })
    }

    #[test]
    fn a_client_that_is_silent_makes_room_for_another() {
        let now = Instant::now();
        let mut clients = full(now);
        let later = now + SILENT / 2;
        for number in (0..CLIENTS_MAX).filter(|number| *number != 7) {
            assert!(clients.knows(ip(number), later));
        }
        let (new, end) = (ip(CLIENTS_MAX), now + SILENT);
        assert_eq!(admit(&mut clients, new, later), Err(Full));
        assert_eq!(admit(&mut clients, new, end), Ok(Some(ip(7))));
        assert!(clients.knows(new, end) && !clients.knows(ip(7), end));
        assert_eq!(admit(&mut clients, ip(7), end), Err(Full));
        // One that the host refuses, and of which nothing is left, takes no place.
        let (mut clients, now) = (full(now), now + SILENT);
        let gone = clients.place_for(new, now).unwrap();
        clients.settle(new, gone, &unanswered(None), now);
        assert_eq!(admit(&mut clients, ip(7777), now), Ok(None));
        assert!(!clients.knows(new, now));
    }

    #[test]
    fn a_client_that_cannot_make_room_keeps_its_place_and_holds_nobody_up() {
        let begun = Instant::now();
        let mut clients = full(begun);
        // One of them spoke last of all that are silent.
        let later = begun + Duration::from_secs(1);
        for number in (0..CLIENTS_MAX).filter(|number| *number != 7) {
            assert!(clients.knows(ip(number), later));
        }
        let (new, now) = (ip(CLIENTS_MAX), later + SILENT);
        assert_eq!(clients.place_for(new, now), Ok(Some(ip(7))));
        clients.settle(new, Some(ip(7)), &unanswered(Some(ip(7))), now);
        assert_eq!(clients.0.len(), CLIENTS_MAX);
        assert_eq!(clients.0[&ip(7)].heard, begun);
        // It is not answered for, nor is the new one, for which another one makes room.
        assert!(!clients.knows(ip(7), now) && !clients.knows(new, now));
        assert_eq!(admit(&mut clients, new, now), Ok(Some(ip(0))));
        // It has a place when it comes again, and is an ordinary one then.
        assert_eq!(clients.place_for(ip(7), now), Ok(None));
        clients.settle(ip(7), None, &Ok(()), now);
        assert!(clients.knows(ip(7), now) && clients.0.len() == CLIENTS_MAX);
        // Where all fail they have their turns, and nobody is taken beyond the bound.
        for number in (1..CLIENTS_MAX).filter(|number| *number != 7) {
            let gone = clients.place_for(ip(9999), now).unwrap().unwrap();
            assert_eq!(gone, ip(number));
            clients.settle(ip(9999), Some(gone), &unanswered(Some(gone)), now);
        }
        let soon = now + Duration::from_secs(1);
        for turn in [1, 2] {
            let gone = clients.place_for(ip(9999), soon).unwrap();
            assert_eq!(gone, Some(ip(turn)));
            clients.settle(ip(9999), gone, &unanswered(gone), soon);
        }
        assert_eq!(clients.0.len(), CLIENTS_MAX);
    }

    /// Whether the host has a route to a client, and answers for it.
    fn has(client: Ipv6Addr) -> (bool, bool) {
        let client = client.to_string();
        let routes = run_ip("-6 route show dev down0");
        let proxies = run_ip("-6 neigh show proxy");
        (routes.contains(&client), proxies.contains(&client))
    }

    #[test]
    fn what_is_left_of_a_client_is_undone_or_completed_when_it_is_tried_again() {
        in_namespace("proxy", |journal, directory| {
            run_ip("link set peer0 up");
            let links = Links {
                journal,
                upstream: "peer0",
                downstream: "down0",
            };
            let (old, new) = (ip(0xa1), ip(0xb2));
            links.answer_for(old, None).unwrap();
            assert_eq!(has(old), (true, true));
            // The record cannot be written: what is undone cannot be noted.
            let records = std::fs::read_dir(directory).unwrap();
            let mut paths = records.map(|entry| entry.unwrap().path());
            let record = paths.find(|path| path.extension() == Some("json".as_ref()));
            let in_the_way = record.unwrap().with_extension("new");
            std::fs::create_dir(&in_the_way).unwrap();
            let refused = links.answer_for(new, Some(old)).unwrap_err();
            assert_eq!(refused.left, Some(old), "{refused:?}");
            assert!(refused.reason.contains("cannot make room"), "{refused:?}");
            assert_eq!(has(new), (false, false));
            // What fails of one part holds up no other.
            assert_eq!(has(old), (false, false));
            // Nor can it be answered for again, or forgotten.
            assert_eq!(links.answer_for(old, None).unwrap_err().left, Some(old));
            // Nothing was made of this one, so nothing is left.
            assert_eq!(links.answer_for(new, None).unwrap_err().left, None);
            std::fs::remove_dir(&in_the_way).unwrap();
            links.answer_for(old, None).unwrap();
            assert_eq!(has(old), (true, true), "it came back");
            links.answer_for(new, Some(old)).unwrap();
            assert_eq!((has(old), has(new)), ((false, false), (true, true)));
        });
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
