//! The TCP state machine of RFC 6146 section 3.5.2.2, one pure step.

use gate64_wire::facts::tcp_flag;

use super::lifetime::Lifetime;
use crate::verdict::Side;

/// States of a session. UDP and ICMP sessions have one each, so that a state alone says which
/// lifetime holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    /// No session.
    Closed = 0,
    /// A SYN came from IPv4.
    V4Init = 3,
    /// A SYN came from IPv6.
    V6Init = 4,
    /// SYNs went both ways.
    Established = 5,
    /// A FIN came from IPv4.
    V4FinRcv = 6,
    /// A FIN came from IPv6.
    V6FinRcv = 7,
    /// FINs went both ways.
    V6FinV4FinRcv = 8,
    /// The connection may be gone: an RST came, or nothing for TCP_EST.
    Trans = 9,
}

/// What one segment does to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The state afterwards.
    pub state: TcpState,
    /// Whether the session's lifetime starts anew.
    pub refresh: bool,
}

impl TcpState {
    /// From the octet kept in a session.
    #[inline]
    pub fn from_octet(octet: u8) -> TcpState {
        match octet {
            3 => TcpState::V4Init,
            4 => TcpState::V6Init,
            5 => TcpState::Established,
            6 => TcpState::V4FinRcv,
            7 => TcpState::V6FinRcv,
            8 => TcpState::V6FinV4FinRcv,
            9 => TcpState::Trans,
            _ => TcpState::Closed,
        }
    }

    /// The RFC's name.
    pub const fn name(self) -> &'static str {
        match self {
            TcpState::Closed => "CLOSED",
            TcpState::V4Init => "V4 INIT",
            TcpState::V6Init => "V6 INIT",
            TcpState::Established => "ESTABLISHED",
            TcpState::V4FinRcv => "V4 FIN RCV",
            TcpState::V6FinRcv => "V6 FIN RCV",
            TcpState::V6FinV4FinRcv => "V6 FIN + V4 FIN RCV",
            TcpState::Trans => "TRANS",
        }
    }

    /// Which lifetime a session in this state has.
    pub const fn lifetime(self) -> Lifetime {
        match self {
            // RFC 6146 section 3.5.2.2: half-closed connections stay on TCP_EST.
            TcpState::Established | TcpState::V4FinRcv | TcpState::V6FinRcv => {
                Lifetime::TcpEstablished
            }
            TcpState::V4Init | TcpState::V6Init => Lifetime::TcpOpening,
            TcpState::V6FinV4FinRcv => Lifetime::TcpClosing,
            TcpState::Trans | TcpState::Closed => Lifetime::TcpTransitory,
        }
    }

    /// What a segment from `side` does. `Closed` is decided by the caller, who knows of the BIB.
    #[inline]
    pub fn step(self, side: Side, flags: u8) -> Step {
        let data = flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) == 0;
        if self == TcpState::Established && data {
            return Step {
                state: self,
                refresh: true,
            };
        }
        self.step_control(side, flags)
    }

    fn step_control(self, side: Side, flags: u8) -> Step {
        let syn = flags & tcp_flag::SYN != 0;
        let fin = flags & tcp_flag::FIN != 0;
        let rst = flags & tcp_flag::RST != 0;
        let stay = Step {
            state: self,
            refresh: false,
        };
        let refresh = Step {
            state: self,
            refresh: true,
        };
        let to = |state| Step {
            state,
            refresh: true,
        };
        match (self, side) {
            (TcpState::Closed, _) => stay,
            (TcpState::V4Init, Side::V6) if syn => to(TcpState::Established),
            (TcpState::V6Init, Side::V4) if syn => to(TcpState::Established),
            // A repeated SYN of the same side refreshes TCP_TRANS.
            (TcpState::V4Init, Side::V4) | (TcpState::V6Init, Side::V6) if syn => refresh,
            (TcpState::V4Init | TcpState::V6Init, _) => stay,
            (TcpState::Established, _) if rst => to(TcpState::Trans),
            (TcpState::Established, Side::V4) if fin => to(TcpState::V4FinRcv),
            (TcpState::Established, Side::V6) if fin => to(TcpState::V6FinRcv),
            (TcpState::Established, _) => refresh,
            (TcpState::V4FinRcv, Side::V6) | (TcpState::V6FinRcv, Side::V4) if fin => {
                to(TcpState::V6FinV4FinRcv)
            }
            // Any packet but the peer's FIN refreshes TCP_EST.
            (TcpState::V4FinRcv | TcpState::V6FinRcv, _) => refresh,
            (TcpState::V6FinV4FinRcv, _) => stay,
            // An RST leaves TRANS and its lifetime alone; anything else revives the session.
            (TcpState::Trans, _) if rst => stay,
            (TcpState::Trans, _) => to(TcpState::Established),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcp_flag::{ACK, FIN, RST, SYN};

    #[test]
    fn rfc6146_section_3_5_2_2_every_transition() {
        use TcpState::*;
        for (from, side, flags, state, refresh) in [
            (V4Init, Side::V6, SYN, Established, true),
            (V4Init, Side::V6, SYN | ACK, Established, true),
            (V4Init, Side::V4, SYN, V4Init, true),
            (V4Init, Side::V4, ACK, V4Init, false),
            (V4Init, Side::V6, RST | ACK, V4Init, false),
            (V6Init, Side::V4, SYN | ACK, Established, true),
            (V6Init, Side::V4, SYN, Established, true),
            (V6Init, Side::V6, SYN, V6Init, true),
            (V6Init, Side::V4, RST | ACK, V6Init, false),
            (Established, Side::V6, ACK, Established, true),
            (Established, Side::V4, SYN, Established, true),
            (Established, Side::V4, FIN | ACK, V4FinRcv, true),
            (Established, Side::V6, FIN | ACK, V6FinRcv, true),
            (Established, Side::V4, RST, Trans, true),
            (Established, Side::V6, RST | ACK, Trans, true),
            (V4FinRcv, Side::V4, ACK, V4FinRcv, true),
            (V4FinRcv, Side::V4, FIN | ACK, V4FinRcv, true),
            (V4FinRcv, Side::V6, ACK, V4FinRcv, true),
            (V4FinRcv, Side::V6, FIN | ACK, V6FinV4FinRcv, true),
            (V6FinRcv, Side::V4, FIN | ACK, V6FinV4FinRcv, true),
            (V6FinRcv, Side::V6, RST, V6FinRcv, true),
            (V6FinV4FinRcv, Side::V4, ACK, V6FinV4FinRcv, false),
            (V6FinV4FinRcv, Side::V6, SYN, V6FinV4FinRcv, false),
            (Trans, Side::V4, RST, Trans, false),
            (Trans, Side::V4, ACK, Established, true),
            (Trans, Side::V6, SYN, Established, true),
        ] {
            assert_eq!(
                from.step(side, flags),
                Step { state, refresh },
                "{from:?} {side:?} {flags:#x}"
            );
        }
    }

    #[test]
    fn rfc6146_section_3_5_2_2_half_closed_stays_on_tcp_est() {
        assert_eq!(TcpState::V4FinRcv.lifetime(), Lifetime::TcpEstablished);
        assert_eq!(TcpState::V6FinRcv.lifetime(), Lifetime::TcpEstablished);
        assert_eq!(TcpState::V6FinV4FinRcv.lifetime(), Lifetime::TcpClosing);
        assert_eq!(TcpState::Trans.lifetime(), Lifetime::TcpTransitory);
    }
}
