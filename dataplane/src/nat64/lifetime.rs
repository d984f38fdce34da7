//! Lifetimes of RFC 6146 section 4 as ticks, looked up by a session's state octet.

use gate64_wire::addr::Protocol;

use crate::clock::{Tick, ticks};
use crate::config::Lifetimes;

/// The named lifetimes that a session can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// UDP_DEFAULT.
    Udp,
    /// ICMP_DEFAULT.
    Icmp,
    /// TCP_EST.
    TcpEstablished,
    /// TCP_TRANS.
    TcpTransitory,
    /// TCP_TRANS of a connection that opens.
    TcpOpening,
    /// TCP_TRANS of a connection that both sides have closed.
    TcpClosing,
}

/// State octet of a UDP session. TCP states follow in [`super::tcp_state::TcpState`]; 0 is none.
pub const STATE_UDP: u8 = 1;
/// State octet of an ICMP query session.
pub const STATE_ICMP: u8 = 2;

const STATES: usize = 16;

/// The protocol whose sessions have this state; `None` where there is no session.
pub fn protocol_of(state: u8) -> Option<Protocol> {
    match state {
        STATE_UDP => Some(Protocol::Udp),
        STATE_ICMP => Some(Protocol::Icmp),
        0 => None,
        _ => Some(Protocol::Tcp),
    }
}

/// Ticks by state octet.
#[derive(Debug, Clone, Copy)]
pub struct LifetimeTable {
    by_state: [u32; STATES],
    /// No visit lies further ahead than this, so that a session whose lifetime was shortened (an
    /// established connection that closed) is seen in time.
    revisit: u32,
}

impl LifetimeTable {
    /// From the configuration.
    pub fn new(lifetimes: &Lifetimes) -> LifetimeTable {
        use super::tcp_state::TcpState;
        let by_name = |lifetime| match lifetime {
            Lifetime::Udp => ticks(lifetimes.udp),
            Lifetime::Icmp => ticks(lifetimes.icmp),
            Lifetime::TcpEstablished => ticks(lifetimes.tcp_established),
            Lifetime::TcpTransitory => ticks(lifetimes.tcp_transitory),
            Lifetime::TcpOpening => ticks(lifetimes.tcp_opening),
            Lifetime::TcpClosing => ticks(lifetimes.tcp_closing),
        };
        let mut by_state = [0; STATES];
        for octet in 3..=9u8 {
            by_state[usize::from(octet)] = by_name(TcpState::from_octet(octet).lifetime());
        }
        by_state[usize::from(STATE_UDP)] = by_name(Lifetime::Udp);
        by_state[usize::from(STATE_ICMP)] = by_name(Lifetime::Icmp);
        LifetimeTable {
            by_state,
            revisit: ticks(lifetimes.tcp_transitory.min(lifetimes.tcp_closing)).max(1),
        }
    }

    /// The first tick at which a session last seen at `seen` is over: the lifetime has passed in
    /// full although both ends of it were rounded down.
    #[inline]
    pub fn over_at(&self, state: u8, seen: Tick) -> Tick {
        Tick(
            seen.0
                .saturating_add(self.by_state[usize::from(state) % STATES])
                .saturating_add(1),
        )
    }

    /// When to visit a session that is over at `over`.
    #[inline]
    pub fn visit_at(&self, over: Tick, now: Tick) -> Tick {
        Tick(over.0.min(now.0.saturating_add(self.revisit)))
    }
}
