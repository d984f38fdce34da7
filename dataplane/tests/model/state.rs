//! Sessions of the naive NAT64: states, lifetimes, transitions.

use std::time::Duration;

use gate64_dataplane::clock::ticks;
use gate64_dataplane::verdict::Side;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Udp,
    Icmp,
    V4Init,
    V6Init,
    Established,
    V4Fin,
    V6Fin,
    BothFin,
    Trans,
}

impl State {
    pub fn lifetime(self) -> u32 {
        ticks(Duration::from_secs(match self {
            State::Udp => 300,
            State::Icmp => 60,
            State::Established | State::V4Fin | State::V6Fin => 7440,
            State::V4Init | State::V6Init | State::BothFin | State::Trans => 240,
        }))
    }

    pub fn name(self) -> &'static str {
        match self {
            State::Udp | State::Icmp => "",
            State::V4Init => "V4 INIT",
            State::V6Init => "V6 INIT",
            State::Established => "ESTABLISHED",
            State::V4Fin => "V4 FIN RCV",
            State::V6Fin => "V6 FIN RCV",
            State::BothFin => "V6 FIN + V4 FIN RCV",
            State::Trans => "TRANS",
        }
    }

    /// RFC 6146 section 3.5.2.2, in the RFC's order; and whether the lifetime starts anew.
    fn next(self, from: Side, flags: u8) -> (State, bool) {
        let (fin, syn, rst) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        let v6 = from == Side::V6;
        match self {
            State::Udp | State::Icmp => (self, true),
            State::V4Init if syn && v6 => (State::Established, true),
            State::V6Init if syn && !v6 => (State::Established, true),
            State::V4Init | State::V6Init => (self, syn),
            State::Established if rst => (State::Trans, true),
            State::Established if fin && v6 => (State::V6Fin, true),
            State::Established if fin => (State::V4Fin, true),
            State::Established => (self, true),
            State::V4Fin if fin && v6 => (State::BothFin, true),
            State::V6Fin if fin && !v6 => (State::BothFin, true),
            State::V4Fin | State::V6Fin => (self, true),
            State::BothFin => (self, false),
            State::Trans if rst => (self, false),
            State::Trans => (State::Established, true),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Session {
    pub state: State,
    pub seen: u32,
}

pub fn step(session: &mut Session, side: Side, flags: u8, tick: u32) {
    let (state, refresh) = session.state.next(side, flags);
    session.state = state;
    if refresh {
        session.seen = tick;
    }
}
