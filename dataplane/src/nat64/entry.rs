//! What lies in session memory: BIB entries, sessions, and references to them.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use gate64_wire::checksum::Delta;

use crate::clock::Tick;
use crate::memory::Plain;
use crate::route::HopId;

/// A session as stored: the IPv4 peer, its state, and what a packet of it needs next. Addresses
/// and ports are in network order, as packets have them.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Session {
    /// Z: the IPv4 peer.
    remote_ip: [u8; 4],
    /// Which Pref64 the client uses for it.
    pub pref64: u8,
    /// State octet, see [`super::lifetime`]; 0 where there is no session.
    pub state: u8,
    /// z: its port.
    remote_port: [u8; 2],
    /// When a packet last refreshed it.
    pub seen: u32,
    /// When it was made.
    pub created: u32,
    /// What translation from IPv6 to IPv4 changes in the layer 4 checksum (RFC 1624).
    pub delta: u16,
    /// Number of the route snapshot that the hops are of, 0 for none.
    pub hop_generation: u16,
    /// Next hop towards the IPv4 peer, [`HOP_NONE`] if unknown.
    pub hop_v4: u16,
    /// Next hop towards the client, [`HOP_NONE`] if unknown.
    pub hop_v6: u16,
}

const _: () = assert!(size_of::<Session>() == 24);

/// No hop kept.
pub const HOP_NONE: u16 = u16::MAX;

/// What a packet has to agree with to be of a session: the four octets of the peer's address, and
/// four of prefix, state and the peer's port. Compared as two words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fit {
    remote_ip: u32,
    rest: u32,
}

impl Fit {
    /// What no live session fits.
    pub const NONE: Fit = Fit {
        remote_ip: 0,
        rest: 0,
    };

    /// For the peer with this address and port in network order, a prefix and a state.
    #[inline]
    pub fn of(remote_ip: [u8; 4], remote_port: [u8; 2], pref64: u8, state: u8) -> Fit {
        let [high, low] = remote_port;
        Fit {
            remote_ip: u32::from_ne_bytes(remote_ip),
            rest: u32::from_ne_bytes([pref64, state, high, low]),
        }
    }

    /// The peer's address in network order.
    #[inline]
    pub fn remote_ip(self) -> [u8; 4] {
        self.remote_ip.to_ne_bytes()
    }

    /// Whether both agree in all but the prefix.
    #[inline]
    pub fn is_but_for_prefix(self, other: Fit) -> bool {
        let [_, state, port @ ..] = self.rest.to_ne_bytes();
        let [_, other_state, other_port @ ..] = other.rest.to_ne_bytes();
        self.remote_ip == other.remote_ip && port == other_port && state == other_state
    }

    /// The peer.
    pub fn remote(self) -> TransportAddr4 {
        let [.., high, low] = self.rest.to_ne_bytes();
        TransportAddr4 {
            ip: Ipv4Addr::from(self.remote_ip()),
            port: u16::from_be_bytes([high, low]),
        }
    }

    /// The state.
    pub fn state(self) -> u8 {
        self.rest.to_ne_bytes()[1]
    }
}

impl Session {
    /// A session that begins now, without a hop yet.
    pub fn new(peer: TransportAddr4, pref64: u8, state: u8, now: Tick, delta: Delta) -> Session {
        Session {
            remote_ip: peer.ip.octets(),
            pref64,
            state,
            remote_port: peer.port.to_be_bytes(),
            seen: now.0,
            created: now.0,
            delta: delta.bits(),
            hop_generation: 0,
            hop_v4: HOP_NONE,
            hop_v6: HOP_NONE,
        }
    }

    /// Z,z: the IPv4 peer.
    #[inline]
    pub fn remote(&self) -> TransportAddr4 {
        TransportAddr4 {
            ip: Ipv4Addr::from(self.remote_ip),
            port: u16::from_be_bytes(self.remote_port),
        }
    }

    /// What packets of it have to agree with.
    #[inline]
    pub fn fit(&self) -> Fit {
        Fit::of(self.remote_ip, self.remote_port, self.pref64, self.state)
    }

    /// Whether there is a session.
    #[inline]
    pub fn is_live(&self) -> bool {
        self.state != 0
    }

    /// Whether it is a session with this peer.
    #[inline]
    pub fn is_with(&self, peer: TransportAddr4) -> bool {
        self.remote() == peer && self.is_live()
    }

    /// The kept hop towards a side, if it is of this route snapshot.
    #[inline]
    pub fn hop(&self, generation: u16, towards_v4: bool) -> Option<HopId> {
        let hop = if towards_v4 { self.hop_v4 } else { self.hop_v6 };
        (self.hop_generation == generation && hop != HOP_NONE).then_some(HopId(hop))
    }

    /// As [`Session::hop`], but of a hop that is not known [`HOP_NONE`], which no snapshot has.
    #[inline]
    pub fn hop_or_none(&self, generation: u16, towards_v4: bool) -> Option<u16> {
        let hop = if towards_v4 { self.hop_v4 } else { self.hop_v6 };
        (self.hop_generation == generation).then_some(hop)
    }

    /// Keeps a hop of this route snapshot.
    pub fn keep_hop(&mut self, generation: u16, towards_v4: bool, hop: HopId) {
        if self.hop_generation != generation {
            self.hop_generation = generation;
            self.hop_v4 = HOP_NONE;
            self.hop_v6 = HOP_NONE;
        }
        *(if towards_v4 {
            &mut self.hop_v4
        } else {
            &mut self.hop_v6
        }) = hop.0;
    }
}

/// Both transport addresses of a BIB entry, in network order.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Ends {
    /// X'.
    pub v6_ip: [u8; 16],
    /// x.
    pub v6_port: [u8; 2],
    /// t.
    pub v4_port: [u8; 2],
    /// T.
    pub v4_ip: [u8; 4],
}

impl Ends {
    /// Of these transport addresses.
    pub fn new(v6: TransportAddr6, v4: TransportAddr4) -> Ends {
        Ends {
            v6_ip: v6.ip.octets(),
            v6_port: v6.port.to_be_bytes(),
            v4_port: v4.port.to_be_bytes(),
            v4_ip: v4.ip.octets(),
        }
    }

    /// Whether the IPv6 side is this one, in network order.
    #[inline]
    pub fn is_v6(&self, ip: &[u8; 16], port: &[u8; 2]) -> bool {
        u128::from_ne_bytes(self.v6_ip) == u128::from_ne_bytes(*ip) && self.v6_port == *port
    }
}

/// A BIB entry with its first session: one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct BibEntry {
    pub(super) ends: Ends,
    /// The subscriber; for a free entry, the next free one.
    pub subscriber: u32,
    /// Sessions besides the first.
    pub extra_count: u32,
    pub(super) slot: u32,
    pub(super) protocol: u8,
    pub(super) flags: u8,
    pub(super) reserved: [u8; 2],
    /// The first session, if its state is not 0.
    pub session: Session,
}

const _: () = assert!(size_of::<BibEntry>() == 64);

pub(super) const FLAG_LIVE: u8 = 1;
pub(super) const FLAG_STATIC: u8 = 2;
/// Its first session was cut: the wheel still refers to it.
pub(super) const FLAG_AWAITED: u8 = 4;

// SAFETY: integers and arrays of them.
#[allow(unsafe_code)]
unsafe impl Plain for BibEntry {}

impl BibEntry {
    /// X',x.
    #[inline]
    pub fn v6(&self) -> TransportAddr6 {
        TransportAddr6 {
            ip: Ipv6Addr::from(self.ends.v6_ip),
            port: u16::from_be_bytes(self.ends.v6_port),
        }
    }

    /// T,t.
    #[inline]
    pub fn v4(&self) -> TransportAddr4 {
        TransportAddr4 {
            ip: Ipv4Addr::from(self.ends.v4_ip),
            port: u16::from_be_bytes(self.ends.v4_port),
        }
    }

    /// Which BIB it is in.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        match self.protocol {
            0 => Protocol::Udp,
            1 => Protocol::Tcp,
            _ => Protocol::Icmp,
        }
    }

    /// Whether it is configured.
    pub fn is_static(&self) -> bool {
        self.flags & FLAG_STATIC != 0
    }

    /// Whether it is an entry at all.
    pub fn is_live(&self) -> bool {
        self.flags & FLAG_LIVE != 0
    }

    /// Sessions that use it.
    pub fn session_count(&self) -> u32 {
        self.extra_count + u32::from(self.session.state != 0)
    }

    #[inline]
    pub(super) fn is(&self, ip: Ipv6Addr, port: u16, protocol: Protocol) -> bool {
        self.ends.is_v6(&ip.octets(), &port.to_be_bytes()) && self.protocol == protocol as u8
    }
}

/// A further session of a BIB entry.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ExtraSession {
    /// The session.
    pub session: Session,
    /// Its BIB entry; for a free one, the next free one.
    pub bib: u32,
    pub(super) reserved: u32,
}

const _: () = assert!(size_of::<ExtraSession>() == 32);

// SAFETY: integers only.
#[allow(unsafe_code)]
unsafe impl Plain for ExtraSession {}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionRef {
    /// The first session of that BIB entry.
    First(u32),
    /// A further one, with its BIB entry.
    Extra {
        /// Its number.
        extra: u32,
        /// Its BIB entry's number.
        bib: u32,
    },
}

impl SessionRef {
    /// The BIB entry's number.
    #[inline]
    pub fn bib(self) -> u32 {
        match self {
            SessionRef::First(bib) | SessionRef::Extra { bib, .. } => bib,
        }
    }
}

/// What the wheel's references mean: two bits of kind, thirty of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WheelRef {
    /// The first session of a BIB entry.
    First(u32),
    /// A further session.
    Extra(u32),
    /// A port block.
    Block(u32),
}

const KIND_SHIFT: u32 = 30;

/// Numbers have to fit a wheel reference.
pub const NUMBER_MAX: u32 = (1 << KIND_SHIFT) - 1;

impl WheelRef {
    /// As kept by the wheel.
    pub fn pack(self) -> u32 {
        match self {
            WheelRef::First(number) => number,
            WheelRef::Extra(number) => 1 << KIND_SHIFT | number,
            WheelRef::Block(number) => 2 << KIND_SHIFT | number,
        }
    }

    /// From what the wheel kept.
    pub fn unpack(reference: u32) -> WheelRef {
        let number = reference & NUMBER_MAX;
        match reference >> KIND_SHIFT {
            0 => WheelRef::First(number),
            1 => WheelRef::Extra(number),
            _ => WheelRef::Block(number),
        }
    }
}
