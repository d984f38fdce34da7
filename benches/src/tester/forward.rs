//! A device that does nothing: frames between two interfaces, their link header written anew. What
//! is left of a forwarder when the translator is taken out; the base line of comparisons.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gate64_dataplane::io::steering::Steering;
use gate64_dataplane::io::xsk::XskIo;
use gate64_dataplane::io::{BURST_FRAMES_MAX, PacketIo};
use gate64_dataplane::packet::Frame;
use gate64_dataplane::route::PortId;

use super::TesterError;
use super::interface::{End, Taken, take};

/// As a gate64 worker does: the time without work until it sleeps, and for how long.
const IDLE_AFTER: Duration = Duration::from_millis(1);
const SLEEP: Duration = Duration::from_millis(50);

/// Two interfaces, and the frames between them.
pub struct Forwarder {
    io: XskIo,
    #[expect(
        dead_code,
        reason = "kept alive: it detaches the programs when it is dropped"
    )]
    steering: Steering,
    links: [[u8; 12]; 2],
    burst: Vec<Frame>,
    busy_at: Instant,
}

impl Forwarder {
    /// Takes two interfaces for the benchmarking prefixes; each end names where its frames go.
    pub fn open(ends: &[End; 2]) -> Result<Forwarder, TesterError> {
        let Taken {
            io,
            steering,
            links,
            ..
        } = take(ends)?;
        Ok(Forwarder {
            io,
            steering,
            links,
            burst: Vec::with_capacity(BURST_FRAMES_MAX),
            busy_at: Instant::now(),
        })
    }

    /// Forwards a burst each way; sleeps where there was none for a while.
    pub fn turn(&mut self) {
        let mut count = 0;
        for (from, to) in [(0, 1), (1, 0)] {
            count += self
                .io
                .receive(PortId(from), BURST_FRAMES_MAX, &mut self.burst);
            let area = Arc::clone(self.io.area());
            for mut frame in self.burst.drain(..) {
                let link = &self.links[usize::from(to)];
                area.packet(&mut frame).bytes_mut()[..12].copy_from_slice(link);
                if let Err(frame) = self.io.stage(PortId(to), frame) {
                    self.io.release(frame);
                }
            }
        }
        self.io.flush();
        self.io.reclaim();
        let now = Instant::now();
        if count > 0 {
            self.busy_at = now;
        } else if now.duration_since(self.busy_at) >= IDLE_AFTER {
            self.io.wait(SLEEP);
        }
    }
}
