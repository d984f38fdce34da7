//! A worker's share of the frames. Each chunk has a home, the worker that it was given to at
//! start; frames that end up elsewhere go home in batches, over rings that can take them all.

use std::ops::Range;
use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use super::area::{FrameArea, HEADROOM};
use crate::packet::{Frame, Window};

/// Foreign frames are sent home this many at a time, or when the worker runs out of work.
const HOMEWARD_BATCH: usize = 32;

/// The free frames of one worker.
#[derive(Debug)]
pub(super) struct FramePool {
    area: Arc<FrameArea>,
    home: Range<u32>,
    free: Vec<Frame>,
    peers: Vec<Peer>,
}

/// Another worker, as seen from one pool.
#[derive(Debug)]
struct Peer {
    home: Range<u32>,
    waiting: Vec<Frame>,
    send: Producer<Frame>,
    receive: Consumer<Frame>,
}

impl FramePool {
    /// Divides an area's frames evenly over `count` workers.
    pub fn divide(area: &Arc<FrameArea>, mut frames: Vec<Frame>, count: usize) -> Vec<FramePool> {
        let share = frames.len() / count.max(1);
        let mut pools: Vec<FramePool> = (0..count)
            .map(|_| FramePool::over(area, frames.drain(..share).collect()))
            .collect();
        for low in 0..count {
            for high in low + 1..count {
                let (low_to_high, high_from_low) = RingBuffer::new(share);
                let (high_to_low, low_from_high) = RingBuffer::new(share);
                let (low_home, high_home) = (pools[low].home.clone(), pools[high].home.clone());
                pools[low].meet(high_home, low_to_high, low_from_high);
                pools[high].meet(low_home, high_to_low, high_from_low);
            }
        }
        pools
    }

    fn over(area: &Arc<FrameArea>, free: Vec<Frame>) -> FramePool {
        let first = free.first().map_or(0, Frame::chunk);
        let end = free.last().map_or(0, |last| last.chunk() + 1);
        FramePool {
            area: Arc::clone(area),
            home: first..end,
            free,
            peers: Vec::new(),
        }
    }

    fn meet(&mut self, home: Range<u32>, send: Producer<Frame>, receive: Consumer<Frame>) {
        let waiting = Vec::with_capacity(2 * HOMEWARD_BATCH);
        self.peers.push(Peer {
            home,
            waiting,
            send,
            receive,
        });
    }

    pub fn area(&self) -> &Arc<FrameArea> {
        &self.area
    }

    /// Frames that can be taken now.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Frames that are foreign and not yet sent home.
    #[cfg(test)]
    pub fn waiting_count(&self) -> usize {
        self.peers.iter().map(|peer| peer.waiting.len()).sum()
    }

    /// A free frame with an empty window behind the headroom.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let mut frame = self.free.pop()?;
        frame.window = Window {
            start: HEADROOM,
            len: 0,
        };
        Some(frame)
    }

    /// Takes a frame back, whoever's it is.
    #[inline]
    pub fn give(&mut self, frame: Frame) {
        if self.home.contains(&frame.chunk()) {
            debug_assert!(self.free.len() < self.home.len(), "a frame was given twice");
            self.free.push(frame);
        } else {
            self.give_foreign(frame);
        }
    }

    fn give_foreign(&mut self, frame: Frame) {
        let chunk = frame.chunk();
        let peer = self
            .peers
            .iter_mut()
            .find(|peer| peer.home.contains(&chunk))
            .expect("every chunk has a home");
        peer.waiting.push(frame);
        if peer.waiting.len() >= HOMEWARD_BATCH {
            peer.send_home();
        }
    }

    /// Sends foreign frames home, and takes in one's own that others sent.
    pub fn exchange(&mut self) {
        for peer in &mut self.peers {
            peer.send_home();
            let count = peer.receive.slots();
            if let Ok(chunk) = peer.receive.read_chunk(count) {
                self.free.extend(chunk);
            }
        }
        debug_assert!(
            self.free.len() <= self.home.len(),
            "a frame was given twice"
        );
    }
}

impl Peer {
    fn send_home(&mut self) {
        let count = self.waiting.len();
        if count == 0 {
            return;
        }
        // As many places as the peer has chunks: there is always room.
        let chunk = self.send.write_chunk_uninit(count);
        let chunk = chunk.expect("the ring takes all chunks of its home");
        chunk.fill_from_iter(self.waiting.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_frames_return_to_their_home() {
        let (area, frames) = FrameArea::on_heap(200);
        let mut pools = FramePool::divide(&area, frames, 2);
        let mut second = pools.pop().unwrap();
        let mut first = pools.pop().unwrap();
        for _ in 0..70 {
            second.give(first.take().unwrap());
        }
        assert_eq!((first.free_count(), second.free_count()), (30, 100));
        assert_eq!(second.waiting_count(), 70 - 2 * HOMEWARD_BATCH);
        second.exchange();
        first.exchange();
        assert_eq!((first.free_count(), second.free_count()), (100, 100));
    }

    #[test]
    fn an_empty_pool_gives_nothing() {
        let (area, frames) = FrameArea::on_heap(1);
        let mut pool = FramePool::divide(&area, frames, 1).pop().unwrap();
        let frame = pool.take().unwrap();
        assert_eq!(pool.take(), None);
        pool.give(frame);
        assert_eq!(pool.free_count(), 1);
    }
}
