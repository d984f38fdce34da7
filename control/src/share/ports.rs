//! Ports of the upstream's address that are gate64's alone: each is held by a socket that does
//! nothing, so that the host cannot give it to anyone else, and gate64 takes none that is used.
//! The sockets go with the process: there is nothing to put back.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// Ports that are worth a pool.
const COUNT_MIN: usize = 512;
/// Ports taken where the choice is gate64's.
const COUNT_MAX: u16 = 8192;
/// Files that the gateway has of its own: sockets of packets, DNS64, API and metrics.
const FILES_OF_GATEWAY: usize = 1024;
/// Ports below are the host's services'.
const LOWEST: u16 = 10_000;
/// What is searched where the host's own range is not known: Linux's default.
const HOST_RANGE: RangeInclusive<u16> = 32_768..=60_999;

/// Ports that nobody else can have.
pub struct HeldPorts {
    range: RangeInclusive<u16>,
    sockets: Vec<Socket>,
}

/// Why there are no ports.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// The host uses too many.
    #[error(
        "of the ports {}-{} of {address} no {COUNT_MIN} in a row are free: programs of this host \
         use them (`ss -antu`); choose others with --ports", range.start(), range.end()
    )]
    Used {
        /// The address.
        address: Ipv4Addr,
        /// Where they were searched.
        range: RangeInclusive<u16>,
    },
    /// The process may not have as many sockets.
    #[error(
        "{count} ports need {} sockets, and this process may open {files}: raise `ulimit -n` \
         (LimitNOFILE in a systemd unit), or give at most {} ports with --ports",
        2 * count, files / 2
    )]
    Files {
        /// Ports that are wanted.
        count: usize,
        /// Sockets that there may be.
        files: usize,
    },
}

impl HeldPorts {
    /// Takes the ports of `wanted`, or the best that there are: outside of those that the host
    /// gives to its own connections, the highest.
    ///
    /// # Errors
    /// If too few in a row are free.
    pub fn take(
        address: Ipv4Addr,
        wanted: Option<&RangeInclusive<u16>>,
    ) -> Result<HeldPorts, PortsError> {
        let files = raise_file_limit();
        let count = wanted.map_or(COUNT_MIN, |wanted| wanted.clone().count());
        if 2 * count > files {
            return Err(PortsError::Files { count, files });
        }
        let host = crate::machine::host_ports().unwrap_or(HOST_RANGE);
        let most = u16::try_from(files / 2).unwrap_or(u16::MAX).min(COUNT_MAX);
        let mut searched = candidates(wanted, &host, most).into_iter();
        let first = searched.next().unwrap_or(HOST_RANGE);
        std::iter::once(first.clone())
            .chain(searched)
            .find_map(|range| hold(address, &range))
            .ok_or(PortsError::Used {
                address,
                range: first,
            })
    }

    /// The ports.
    pub fn range(&self) -> RangeInclusive<u16> {
        self.range.clone()
    }
}

/// Where ports are searched, the best first: at most `most`, unless others are wanted.
fn candidates(
    wanted: Option<&RangeInclusive<u16>>,
    host: &RangeInclusive<u16>,
    most: u16,
) -> Vec<RangeInclusive<u16>> {
    if let Some(wanted) = wanted {
        return vec![wanted.clone()];
    }
    let mut ranges = Vec::new();
    if let Some(above) = host.end().checked_add(1) {
        ranges.push(above.max(LOWEST)..=u16::MAX);
    }
    if *host.start() > LOWEST {
        ranges.push(LOWEST..=host.start() - 1);
    }
    // As a last resort the host's own: what is held is not given to its connections.
    ranges.push((*host.start()).max(LOWEST)..=*host.end());
    ranges
        .into_iter()
        .filter(|range| range.clone().count() >= COUNT_MIN)
        .map(|range| {
            (*range.start()).max(range.end().saturating_sub(most.saturating_sub(1)))..=*range.end()
        })
        .collect()
}

/// Holds the longest run of free ports, if it is long enough.
fn hold(address: Ipv4Addr, range: &RangeInclusive<u16>) -> Option<HeldPorts> {
    let mut best: Option<HeldPorts> = None;
    let mut run: Option<HeldPorts> = None;
    let count =
        |held: &Option<HeldPorts>| held.as_ref().map_or(0, |held| held.range.clone().count());
    for port in range.clone() {
        match (hold_port(address, port), &mut run) {
            (Hold::Used, _) => {
                if count(&run) > count(&best) {
                    best = run;
                }
                run = None;
            }
            (Hold::Sockets(sockets), Some(run)) => {
                run.range = *run.range.start()..=port;
                run.sockets.extend(sockets);
            }
            (Hold::Sockets(sockets), None) => {
                run = Some(HeldPorts {
                    range: port..=port,
                    sockets,
                });
            }
        }
    }
    if count(&run) > count(&best) {
        best = run;
    }
    best.filter(|held| held.range.clone().count() >= COUNT_MIN)
}

enum Hold {
    /// Someone has it, or no socket is to be had.
    Used,
    /// It is held.
    Sockets(Vec<Socket>),
}

fn hold_port(address: Ipv4Addr, port: u16) -> Hold {
    let mut sockets = Vec::new();
    for kind in [Type::STREAM, Type::DGRAM] {
        let Ok(socket) = Socket::new(Domain::IPV4, kind, None) else {
            // The machine is out of files: what cannot be held is not used.
            return Hold::Used;
        };
        let at = SocketAddrV4::new(address, port);
        if let Err(error) = socket.bind(&at.into()) {
            match error.raw_os_error() {
                Some(libc::EADDRINUSE | libc::EACCES) => return Hold::Used,
                // The address has just gone: the next round is for another one.
                _ => continue,
            }
        }
        // Nobody reads what comes by another interface.
        let _ = socket.set_recv_buffer_size(0);
        sockets.push(socket);
    }
    Hold::Sockets(sockets)
}

/// Two sockets for each port are more files than a process has by default. How many there may be
/// beside those that the gateway needs.
fn raise_file_limit() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    limit - (limit / 4).min(FILES_OF_GATEWAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_searched_outside_of_the_hosts_own_first() {
        let ranges = candidates(None, &(32_768..=60_999), COUNT_MAX);
        assert_eq!(ranges[0], 61_000..=65_535);
        assert_eq!(ranges[1], 32_768 - 8192..=32_767);
        let ranges = candidates(None, &(1024..=65_535), COUNT_MAX);
        assert_eq!(ranges, [65_535 - 8191..=65_535]);
        let ranges = candidates(Some(&(5000..=6000)), &(1024..=65_535), COUNT_MAX);
        assert_eq!(ranges, [5000..=6000]);
        let ranges = candidates(None, &(32_768..=60_999), 600);
        assert_eq!(ranges[0], 64_936..=65_535, "where files are few");
    }

    /// In a network namespace of this thread's own: nobody else has a port there.
    fn alone(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let up = ["link", "set", "lo", "up"];
            let status = std::process::Command::new("ip").args(up).status();
            assert!(status.unwrap().success());
            test();
        });
        thread.join().unwrap();
    }

    #[test]
    fn what_is_used_is_left_and_what_is_held_cannot_be_had() {
        alone(used_and_held);
    }

    fn used_and_held() {
        let loopback = Ipv4Addr::LOCALHOST;
        let used = std::net::UdpSocket::bind((loopback, 20_100)).unwrap();
        let held = HeldPorts::take(loopback, Some(&(20_000..=21_000))).unwrap();
        assert_eq!(held.range(), 20_101..=21_000);
        assert_eq!(held.sockets.len(), 2 * 900);
        std::net::TcpListener::bind((loopback, 20_500)).unwrap_err();
        std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 21_000)).unwrap_err();
        drop(held);
        // A program that another test starts holds all of this process's sockets until it executes.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::net::TcpListener::bind((loopback, 20_500)).is_err() {
            assert!(std::time::Instant::now() < end, "the ports are still held");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        drop(used);
    }

    #[test]
    fn ports_that_cannot_all_be_held_are_an_error_that_says_what_to_do() {
        let files = PortsError::Files {
            count: 28_232,
            files: 18_976,
        };
        let text = files.to_string();
        assert!(text.contains("28232 ports need 56464 sockets"), "{text}");
        assert!(text.contains("at most 9488 ports"), "{text}");
    }

    #[test]
    fn too_few_are_an_error_that_names_the_range() {
        let loopback = Ipv4Addr::new(127, 77, 0, 2);
        let error = HeldPorts::take(loopback, Some(&(20_000..=20_100)))
            .err()
            .unwrap();
        assert!(error.to_string().contains("20000-20100"), "{error}");
    }
}
