//! The clock by which TTLs age: the real one, or one that a test turns by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time since the server was made. TTLs and health back-off read it; sockets do not.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's monotonic clock, counted from this point.
    Real(Instant),
    /// Milliseconds, moved only by [`Clock::advance`].
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock, starting at zero now.
    pub fn real() -> Clock {
        Clock::Real(Instant::now())
    }

    /// A clock that stands still until it is advanced.
    pub fn manual() -> Clock {
        Clock::Manual(Arc::default())
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        match self {
            Clock::Real(start) => start.elapsed(),
            Clock::Manual(milliseconds) => {
                Duration::from_millis(milliseconds.load(Ordering::Relaxed))
            }
        }
    }

    /// Moves a manual clock; the real one moves by itself and is left alone.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(milliseconds) = self {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            milliseconds.fetch_add(by, Ordering::Relaxed);
        }
    }
}
