//! Network namespaces with veth pairs for tests: made and removed by the test itself.
#![allow(dead_code, missing_docs)] // each test binary uses its part

pub mod packets;

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// How long a test waits for what takes no time on a machine that does nothing else.
pub const SOON: Duration = Duration::from_secs(30);

/// Three namespaces, a - f - b: `a0`-`f0` and `f1`-`b0`. Removed when dropped.
pub struct Net {
    pub a: String,
    pub f: String,
    pub b: String,
}

pub const F0_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xf0];
pub const F1_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xf1];
pub const A0_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa0];
pub const B0_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb0];

impl Net {
    pub fn up(queues: u32) -> Net {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces and needs root"
        );
        let tag = format!(
            "g64t{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let net = Net {
            a: format!("{tag}a"),
            f: format!("{tag}f"),
            b: format!("{tag}b"),
        };
        for ns in [&net.a, &net.f, &net.b] {
            ip(&["netns", "add", ns]);
            ip(&["-n", ns, "link", "set", "lo", "up"]);
        }
        net.pair(
            "f0",
            "02:00:00:00:00:f0",
            &net.a,
            "a0",
            "02:00:00:00:00:a0",
            queues,
        );
        net.pair(
            "f1",
            "02:00:00:00:00:f1",
            &net.b,
            "b0",
            "02:00:00:00:00:b0",
            queues,
        );
        for args in [
            [
                "-n",
                &net.f,
                "addr",
                "add",
                "2001:db8:1::1/64",
                "dev",
                "f0",
                "nodad",
            ],
            [
                "-n",
                &net.a,
                "addr",
                "add",
                "2001:db8:1::2/64",
                "dev",
                "a0",
                "nodad",
            ],
        ] {
            ip(&args);
        }
        ip(&["-n", &net.f, "addr", "add", "192.0.2.254/24", "dev", "f1"]);
        ip(&["-n", &net.b, "addr", "add", "192.0.2.1/24", "dev", "b0"]);
        net
    }

    fn pair(
        &self,
        near: &str,
        near_mac: &str,
        far_ns: &str,
        far: &str,
        far_mac: &str,
        queues: u32,
    ) {
        let queues = queues.to_string();
        ip(&[
            "-n",
            &self.f,
            "link",
            "add",
            near,
            "address",
            near_mac,
            "numrxqueues",
            &queues,
            "numtxqueues",
            &queues,
            "type",
            "veth",
            "peer",
            "name",
            far,
            "address",
            far_mac,
            "netns",
            far_ns,
            "numrxqueues",
            &queues,
            "numtxqueues",
            &queues,
        ]);
        for (ns, link) in [(self.f.as_str(), near), (far_ns, far)] {
            // No router solicitations or multicast listener reports among the test's frames.
            run(
                "ip",
                &[
                    "netns",
                    "exec",
                    ns,
                    "sysctl",
                    "-qw",
                    &format!("net.ipv6.conf.{link}.router_solicitations=0"),
                ],
            );
            run(
                "ip",
                &["netns", "exec", ns, "ethtool", "-K", link, "tx", "off"],
            );
            ip(&["-n", ns, "link", "set", link, "up"]);
        }
    }

    /// Whether an XDP program is attached to `f0`.
    pub fn has_program(&self) -> bool {
        let output = Command::new("ip")
            .args(["-n", &self.f, "-d", "link", "show", "f0"])
            .output()
            .expect("ip runs");
        String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
    }

    /// Whether `f0` comes to be without an XDP program. A program that another test starts holds all
    /// of this process's descriptors, the link's too, until it executes.
    pub fn loses_program(&self) -> bool {
        let end = Instant::now() + SOON;
        while self.has_program() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        !self.has_program()
    }

    /// Runs a function in a namespace, on a thread of its own.
    pub fn within<T: Send>(ns: &str, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(ns);
                work()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for ns in [&self.a, &self.f, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

/// Moves the calling thread into a namespace.
pub fn enter(ns: &str) {
    let file = File::open(format!("/run/netns/{ns}")).expect("the namespace is there");
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns needs root");
}

pub fn ip(args: &[&str]) {
    run("ip", args);
}

pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} (see `make deps`): {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A packet socket on one link: sends and sees whole frames.
pub struct RawLink {
    socket: OwnedFd,
}

impl RawLink {
    pub fn open(ns: &str, link: &str) -> RawLink {
        Net::within(ns, || RawLink::here(link))
    }

    fn here(link: &str) -> RawLink {
        let all = i32::from(0x0003u16.to_be()); // ETH_P_ALL
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: just made, and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a struct of integers.
        let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        addr.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        addr.sll_protocol = 0x0003u16.to_be();
        let index = nix::net::if_::if_nametoindex(link).expect("the link is there");
        addr.sll_ifindex = i32::try_from(index).unwrap();
        let len = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
        // SAFETY: `len` octets are read from `addr`.
        let bound = unsafe { libc::bind(fd, (&raw const addr).cast(), len) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        // A test's whole burst has to fit: frames sent by AF_XDP count 2 kB and more.
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20))
            .expect("root may enlarge the buffer");
        RawLink { socket }
    }

    pub fn send(&self, frame: &[u8]) {
        let fd = self.socket.as_raw_fd();
        // SAFETY: the pointer and the length are those of one slice.
        let sent = unsafe { libc::send(fd, frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(
            sent,
            isize::try_from(frame.len()).unwrap(),
            "{}",
            io::Error::last_os_error()
        );
    }

    /// The next frame, outgoing ones included, within the time.
    pub fn receive(&self, within: Duration) -> Option<Vec<u8>> {
        let fd = self.socket.as_raw_fd();
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = i32::try_from(within.as_millis()).unwrap();
        // SAFETY: one entry.
        if unsafe { libc::poll(&raw mut poll, 1, timeout) } != 1 {
            return None;
        }
        let mut buffer = vec![0u8; 4096];
        // SAFETY: the pointer and the length are those of one buffer.
        let len = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        buffer.truncate(usize::try_from(len).ok()?);
        Some(buffer)
    }

    /// The next frame that a test takes for its own, if it comes soon.
    pub fn receive_where(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            if let Some(frame) = self.receive(Duration::from_millis(50))
                && wanted(&frame)
            {
                return Some(frame);
            }
        }
        None
    }
}
