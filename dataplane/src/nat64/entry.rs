//! What lies in session memory: BIB entries, sessions, and references to them.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

use super::lifetime::STATE_DEAD;
use crate::memory::Plain;
use crate::route::HopId;

/// A session as stored: the IPv4 peer, its state, and what a packet of it needs next.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Session {
    /// Z: the IPv4 peer.
    pub remote: u32,
    /// z: its port.
    pub remote_port: u16,
    /// Which Pref64 the client uses for it.
    pub pref64: u8,
    /// State octet, see [`super::lifetime`]; 0 where there is no session.
    pub state: u8,
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

impl Session {
    /// Whether there is a session and it was not cleared.
    #[inline]
    pub fn is_live(&self) -> bool {
        self.state.wrapping_sub(1) < STATE_DEAD - 1
    }

    /// Whether it is a live session with this peer.
    #[inline]
    pub fn is_with(&self, peer: TransportAddr4) -> bool {
        self.remote == u32::from(peer.ip) && self.remote_port == peer.port && self.is_live()
    }

    /// The kept hop towards a side, if it is of this route snapshot.
    #[inline]
    pub fn hop(&self, generation: u16, towards_v4: bool) -> Option<HopId> {
        let hop = if towards_v4 { self.hop_v4 } else { self.hop_v6 };
        (self.hop_generation == generation && hop != HOP_NONE).then_some(HopId(hop))
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

/// A BIB entry with its first session: one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct BibEntry {
    pub(super) v6_ip: [u8; 16],
    pub(super) v6_port: u16,
    pub(super) v4_port: u16,
    pub(super) v4_ip: u32,
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
            ip: Ipv6Addr::from(self.v6_ip),
            port: self.v6_port,
        }
    }

    /// T,t.
    #[inline]
    pub fn v4(&self) -> TransportAddr4 {
        TransportAddr4 {
            ip: Ipv4Addr::from(self.v4_ip),
            port: self.v4_port,
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
        u128::from_ne_bytes(self.v6_ip) == u128::from_ne_bytes(ip.octets())
            && self.v6_port == port
            && self.protocol == protocol as u8
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
