//! The tester's two ports, whatever is behind them.

use super::TesterError;

/// One of the tester's ports (RFC 9693 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Where clients are: the IPv6 side of a NAT64.
    Initiator,
    /// Where servers are.
    Responder,
}

impl Role {
    /// Both.
    pub const ALL: [Role; 2] = [Role::Initiator, Role::Responder];

    /// 0 or 1.
    pub const fn index(self) -> usize {
        match self {
            Role::Initiator => 0,
            Role::Responder => 1,
        }
    }

    /// The other one.
    pub const fn other(self) -> Role {
        match self {
            Role::Initiator => Role::Responder,
            Role::Responder => Role::Initiator,
        }
    }

    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Initiator => "initiator",
            Role::Responder => "responder",
        }
    }
}

/// The port could not take a frame yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Called with each received frame: at which port, its octets, and when (nanoseconds).
pub type Take<'a> = dyn FnMut(Role, &[u8], u64) + 'a;

/// What came of asking for a number of workers.
#[derive(Debug, Clone, PartialEq)]
pub enum Workers {
    /// The device has them: trials tell what it forwards.
    Set,
    /// What workers with a core each forwarded, in each repetition: the trials' own device in
    /// memory is one worker on one core.
    Forwarded {
        /// Frames per second, of each direction.
        rates: Vec<f64>,
        /// The same to what one worker forwarded meanwhile.
        to_one: Vec<f64>,
    },
}

/// Two ports and the device between them.
pub trait Ports {
    /// Nanoseconds of the ports' clock.
    fn now(&self) -> u64;

    /// Destination and source MAC address of frames that leave a port.
    fn link(&self, role: Role) -> [u8; 12];

    /// Puts a frame on its way. `Full` is the tester's own limit: it was not sent.
    fn send(&mut self, role: Role, frame: &[u8]) -> Result<(), Full>;

    /// Frames of one port that may be written before the device has its turn.
    fn burst_max(&self) -> u64;

    /// Lets the device work and takes what arrived; where there is nothing to do, time may pass
    /// until `until`, when the next frame is due.
    fn turn(&mut self, until: u64, take: &mut Take);

    /// Whether [`Ports::clear`] can be had.
    fn can_clear(&self) -> bool;

    /// Empties the device's session table; gives the seconds that took.
    fn clear(&mut self) -> Result<f64, TesterError>;

    /// Workers that the device can have at most, where it is known.
    fn workers_max(&self) -> Option<usize>;

    /// Gives the device that many workers, or measures so many.
    fn workers(&mut self, count: u8, repeats: u32) -> Result<Workers, TesterError>;

    /// Why the device itself says that it dropped packets, where it can be asked.
    fn drops(&mut self) -> Option<String>;

    /// Device, interfaces, drivers, modes: for the report.
    fn describe(&self) -> Vec<(String, String)>;
}
