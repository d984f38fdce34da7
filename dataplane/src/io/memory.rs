//! Ports that are queues in memory: tests, benches, the engine's tester.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::area::FrameArea;
use super::pool::FramePool;
use super::waker::{self, Waker};
use super::{IoStatistics, PacketIo};
use crate::packet::Frame;
use crate::route::PortId;

/// One worker's in-memory ports.
#[derive(Debug)]
pub struct MemoryIo {
    pool: FramePool,
    ports: Vec<MemoryPort>,
    sent_max: usize,
    waker: Arc<Waker>,
}

#[derive(Debug, Default)]
struct MemoryPort {
    arriving: VecDeque<Frame>,
    staged: VecDeque<Frame>,
    sent: VecDeque<Frame>,
}

impl MemoryIo {
    /// Packet I/O for `worker_count` workers over one memory. A port holds `sent_max` sent
    /// frames until they are taken; then it is full.
    pub fn group(
        worker_count: usize,
        port_count: usize,
        frames_per_worker: u32,
        sent_max: usize,
    ) -> io::Result<Vec<MemoryIo>> {
        let workers = u32::try_from(worker_count).map_err(io::Error::other)?;
        let (area, frames) = FrameArea::on_heap(workers.saturating_mul(frames_per_worker));
        FramePool::divide(&area, frames, worker_count)
            .into_iter()
            .map(|pool| {
                Ok(MemoryIo {
                    pool,
                    ports: (0..port_count).map(|_| MemoryPort::default()).collect(),
                    sent_max,
                    waker: Arc::new(Waker::new()?),
                })
            })
            .collect()
    }

    /// Lets a frame arrive. False if there is no free frame or it is too long.
    pub fn inject(&mut self, port: PortId, octets: &[u8]) -> bool {
        let Some(mut frame) = self.pool.take() else {
            return false;
        };
        if !self.pool.area().write(&mut frame, octets) {
            self.pool.give(frame);
            return false;
        }
        self.inject_frame(port, frame);
        true
    }

    /// Lets a frame arrive without a copy.
    pub fn inject_frame(&mut self, port: PortId, frame: Frame) {
        self.ports[usize::from(port.0)].arriving.push_back(frame);
    }

    /// Takes the octets of the oldest sent frame.
    pub fn take_sent(&mut self, port: PortId) -> Option<Vec<u8>> {
        let mut frame = self.take_sent_frame(port)?;
        let octets = self.pool.area().packet(&mut frame).bytes().to_vec();
        self.pool.give(frame);
        Some(octets)
    }

    /// Takes the oldest sent frame without a copy; it has to be released or injected again.
    pub fn take_sent_frame(&mut self, port: PortId) -> Option<Frame> {
        self.ports[usize::from(port.0)].sent.pop_front()
    }
}

impl PacketIo for MemoryIo {
    fn area(&self) -> &Arc<FrameArea> {
        self.pool.area()
    }

    fn port_count(&self) -> usize {
        self.ports.len()
    }

    fn receive(&mut self, port: PortId, max: usize, into: &mut Vec<Frame>) -> usize {
        let arriving = &mut self.ports[usize::from(port.0)].arriving;
        let count = arriving.len().min(max);
        into.extend(arriving.drain(..count));
        count
    }

    fn stage(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        let port = &mut self.ports[usize::from(port.0)];
        if port.sent.len() + port.staged.len() >= self.sent_max {
            return Err(frame);
        }
        port.staged.push_back(frame);
        Ok(())
    }

    fn flush(&mut self) {
        for port in &mut self.ports {
            port.sent.append(&mut port.staged);
        }
    }

    fn reclaim(&mut self) {
        self.pool.exchange();
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn release(&mut self, frame: Frame) {
        self.pool.give(frame);
    }

    fn wait(&mut self, timeout: Duration) {
        waker::poll(&mut [waker::readable(self.waker.fd())], timeout);
    }

    fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    fn statistics(&self) -> IoStatistics {
        let held: usize = self.ports.iter().map(|port| port.sent.len()).sum();
        IoStatistics {
            frames_free: self.pool.free_count() as u64,
            frames_sending: held as u64,
            ..IoStatistics::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(0);

    #[test]
    fn a_frame_goes_in_and_out() {
        let mut io = MemoryIo::group(1, 1, 4, 2).unwrap().pop().unwrap();
        assert!(io.inject(PORT, b"one"));
        let mut burst = Vec::new();
        assert_eq!(io.receive(PORT, 64, &mut burst), 1);
        io.stage(PORT, burst.pop().unwrap()).unwrap();
        assert_eq!(io.take_sent(PORT), None);
        io.flush();
        assert_eq!(io.take_sent(PORT).as_deref(), Some(&b"one"[..]));
        assert_eq!(io.statistics().frames_free, 4);
    }

    #[test]
    fn a_full_port_hands_the_frame_back() {
        let mut io = MemoryIo::group(1, 1, 4, 1).unwrap().pop().unwrap();
        let (first, second) = (io.allocate().unwrap(), io.allocate().unwrap());
        io.stage(PORT, first).unwrap();
        let back = io.stage(PORT, second).unwrap_err();
        io.release(back);
        assert_eq!(io.statistics().frames_free, 3);
    }
}
