//! A device that does nothing: frames between two interfaces, their link header written anew. What
//! is left of a forwarder when the translator is taken out; the base line of comparisons.

use std::sync::Arc;
use std::time::Duration;

use gate64_dataplane::io::steering::Steering;
use gate64_dataplane::io::xsk::XskIo;
use gate64_dataplane::io::{BURST_FRAMES_MAX, PacketIo};
use gate64_dataplane::packet::Frame;
use gate64_dataplane::route::PortId;

use super::TesterError;
use super::interface::{End, Taken, take};

/// As a gate64 worker does: turns without work until it sleeps, and for how long.
const IDLE_TURNS_MAX: u32 = 64;
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
    idle_turns: u32,
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
            idle_turns: 0,
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
        self.idle_turns = if count > 0 { 0 } else { self.idle_turns + 1 };
        if self.idle_turns > IDLE_TURNS_MAX {
            self.idle_turns = 0;
            self.io.wait(SLEEP);
        }
    }
}
