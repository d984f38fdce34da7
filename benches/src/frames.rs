//! Frames cut into bursts, and the packets that fill them anew before each timed run.

use std::sync::Arc;
use std::time::Instant;

use gate64_dataplane::io::FrameArea;
use gate64_dataplane::memory::hash::Rng;
use gate64_dataplane::nat64::{Batch, Hop, Item};
use gate64_dataplane::packet::Window;
use gate64_dataplane::route::PortId;
use gate64_dataplane::verdict::{Side, Verdict};
use gate64_wire::addr::{Protocol, TransportAddr4};

use crate::contender::Contender;
use crate::flows::{ACK, Choice, PACKET_MAX, flow, write_v4, write_v6};

/// Frames in a timed run: few enough for their headers to stay in the second-level cache, as the
/// frames of a NIC do, and enough for reading the clock to cost nothing.
pub const RUN_FRAMES: usize = 256;
/// Frames of one side in a row, whatever the size of the bursts.
const SIDE_FRAMES: usize = 64;

/// Frames in bursts of a fixed size.
pub struct Frames {
    pub area: Arc<FrameArea>,
    pub batches: Vec<Batch>,
}

impl Frames {
    /// [`RUN_FRAMES`] frames in bursts of `burst`.
    pub fn new(burst: usize) -> Frames {
        let (area, frames) = FrameArea::on_heap(u32::try_from(RUN_FRAMES).unwrap_or(0));
        let mut batches: Vec<Batch> = Vec::new();
        for (number, frame) in frames.into_iter().enumerate() {
            if number % burst == 0 {
                batches.push(Batch::default());
            }
            let batch = batches.last_mut().expect("one was just made");
            batch.items.push(Item {
                frame,
                side: Side::V6,
                port: PortId(0),
                handed_off: false,
                verdict: Verdict::Hold,
                hop: Hop::None,
            });
        }
        Frames { area, batches }
    }

    /// All items in order.
    pub fn items(&mut self) -> impl Iterator<Item = &mut Item> {
        self.batches.iter_mut().flat_map(|batch| &mut batch.items)
    }

    /// Puts packets into all frames; `write` gets the place in the run.
    pub fn fill(&mut self, mut write: impl FnMut(usize, &mut [u8; PACKET_MAX]) -> (Side, usize)) {
        let mut bytes = [0; PACKET_MAX];
        let area = Arc::clone(&self.area);
        for (place, item) in self.items().enumerate() {
            let (side, len) = write(place, &mut bytes);
            item.side = side;
            item.port = PortId(u8::from(side == Side::V4));
            item.verdict = Verdict::Hold;
            item.frame.window = Window::default();
            let written = area.write(&mut item.frame, &bytes[..len]);
            debug_assert!(written, "a small packet fits a frame");
        }
    }

    /// Lets the contender work all bursts; nanoseconds taken.
    pub fn timed(&mut self, contender: &mut dyn Contender) -> f64 {
        let start = Instant::now();
        for batch in &mut self.batches {
            contender.burst(&self.area, batch);
        }
        start.elapsed().as_nanos() as f64
    }

    /// Items that did not leave.
    pub fn refused(&mut self) -> u64 {
        self.items()
            .filter(|item| !matches!(item.verdict, Verdict::Forward(_)))
            .count() as u64
    }
}

/// Established traffic over a number of flows.
pub struct Load<'a> {
    pub protocol: Protocol,
    /// From both sides in turn if `None`.
    pub side: Option<Side>,
    pub choice: Choice,
    /// By flow: its mapped transport address, see [`pack`].
    pub mapped: &'a [u64],
    pub subscribers: u64,
    pub rng: Rng,
}

impl Load<'_> {
    /// Fills all frames with packets of random flows.
    pub fn write(&mut self, frames: &mut Frames) {
        let (protocol, side) = (self.protocol, self.side);
        let count = self.mapped.len() as u64;
        frames.fill(|place, bytes| {
            let number = self.choice.pick(&mut self.rng, count);
            let flow = flow(number, self.subscribers);
            let side = side.unwrap_or(if (place / SIDE_FRAMES).is_multiple_of(2) {
                Side::V6
            } else {
                Side::V4
            });
            let len = match side {
                Side::V6 => write_v6(bytes, &flow, protocol, ACK),
                Side::V4 => {
                    let mapped = unpack(self.mapped[usize::try_from(number).unwrap_or(0)]);
                    write_v4(bytes, flow.remote, mapped, protocol, ACK)
                }
            };
            (side, len)
        });
    }
}

/// A mapped transport address in one word.
pub fn pack(mapped: TransportAddr4) -> u64 {
    u64::from(u32::from(mapped.ip)) << 16 | u64::from(mapped.port)
}

/// The transport address in a word.
pub fn unpack(word: u64) -> TransportAddr4 {
    let [_, _, a, b, c, d, high, low] = word.to_be_bytes();
    TransportAddr4 {
        ip: [a, b, c, d].into(),
        port: u16::from_be_bytes([high, low]),
    }
}
