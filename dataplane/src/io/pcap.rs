//! Ports that are captures: two are read, two are written, time comes from the captures.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};

use super::area::FrameArea;
use super::pool::FramePool;
use super::waker::Waker;
use super::{IoStatistics, PacketIo};
use crate::clock::Instant;
use crate::packet::Frame;
use crate::route::PortId;

/// Frames in flight between capture and engine.
const FRAMES: u32 = 1024;

/// Captures as ports. Frames arrive one capture time after another: [`PcapIo::advance`] lets
/// the next ones in.
pub struct PcapIo {
    pool: FramePool,
    ports: Vec<PcapPort>,
    waker: Arc<Waker>,
    start: Option<Duration>,
    now: Duration,
    skipped: u64,
    error: Option<io::Error>,
}

struct PcapPort {
    reader: PcapReader<BufReader<File>>,
    bare_ip: bool,
    next: Option<Record>,
    writer: PcapWriter<BufWriter<File>>,
    staged: Vec<Frame>,
}

struct Record {
    at: Duration,
    octets: Vec<u8>,
}

impl PcapIo {
    /// Opens a capture to read and one to write for each port.
    pub fn open(ports: &[(&Path, &Path)]) -> io::Result<PcapIo> {
        let (area, frames) = FrameArea::on_heap(FRAMES);
        let pool = FramePool::divide(&area, frames, 1).pop();
        let mut io = PcapIo {
            pool: pool.ok_or_else(|| io::Error::other("no frames"))?,
            ports: Vec::new(),
            waker: Arc::new(Waker::new()?),
            start: None,
            now: Duration::ZERO,
            skipped: 0,
            error: None,
        };
        for (input, output) in ports {
            io.ports.push(PcapPort::open(input, output)?);
        }
        Ok(io)
    }

    /// Moves to the time of the next packet, counted from the first one of all; `None` at the
    /// end of all captures, or at a fault in one of them.
    pub fn advance(&mut self) -> io::Result<Option<Instant>> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let nexts = self.ports.iter().filter_map(|port| port.next.as_ref());
        let Some(at) = nexts.map(|record| record.at).min() else {
            return Ok(None);
        };
        let start = *self.start.get_or_insert(at);
        // Captures are not always in order; time does not go back.
        self.now = self.now.max(at);
        let since = self.now.saturating_sub(start).as_nanos();
        Ok(Some(Instant::from_nanos(
            u64::try_from(since).unwrap_or(u64::MAX),
        )))
    }

    /// Records longer than a frame, which were left out.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Writes everything out.
    pub fn finish(self) -> io::Result<()> {
        for port in self.ports {
            let file = port.writer.into_writer().into_inner()?;
            file.sync_all()?;
        }
        self.error.map_or(Ok(()), Err)
    }

    fn keep(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }
}

impl PcapPort {
    fn open(input: &Path, output: &Path) -> io::Result<PcapPort> {
        let name = |path: &Path, error: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {error}", path.display()),
            )
        };
        let file = File::open(input).map_err(|error| name(input, error.to_string()))?;
        let reader = PcapReader::new(BufReader::new(file));
        let reader = reader.map_err(|error| name(input, error.to_string()))?;
        let bare_ip = match reader.header().datalink {
            DataLink::ETHERNET => false,
            DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => true,
            other => {
                let text = format!("link type {other:?}: only Ethernet and raw IP can be read");
                return Err(name(input, text));
            }
        };
        let file = File::create(output).map_err(|error| name(output, error.to_string()))?;
        let header = PcapHeader {
            ts_resolution: pcap_file::TsResolution::NanoSecond,
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(BufWriter::new(file), header);
        let mut port = PcapPort {
            reader,
            bare_ip,
            next: None,
            writer: writer.map_err(|error| name(output, error.to_string()))?,
            staged: Vec::new(),
        };
        port.read()
            .map_err(|error| name(input, error.to_string()))?;
        Ok(port)
    }

    fn read(&mut self) -> io::Result<()> {
        self.next = None;
        let Some(packet) = self.reader.next_packet() else {
            return Ok(());
        };
        let packet = packet.map_err(io::Error::other)?;
        let mut octets = Vec::new();
        if self.bare_ip {
            octets.extend(link_header(&packet.data));
        }
        octets.extend_from_slice(&packet.data);
        self.next = Some(Record {
            at: packet.timestamp,
            octets,
        });
        Ok(())
    }

    fn write(&mut self, at: Duration, octets: &[u8]) -> io::Result<()> {
        let len = u32::try_from(octets.len()).map_err(io::Error::other)?;
        let packet = PcapPacket::new(at, len, octets);
        self.writer
            .write_packet(&packet)
            .map_err(io::Error::other)?;
        Ok(())
    }
}

/// An Ethernet header for a bare IP packet, by its version.
fn link_header(packet: &[u8]) -> [u8; 14] {
    let ether_type: u16 = match packet.first().map(|octet| octet >> 4) {
        Some(6) => 0x86dd,
        _ => 0x0800,
    };
    let mut header = [0; 14];
    header[12..].copy_from_slice(&ether_type.to_be_bytes());
    header
}

impl PacketIo for PcapIo {
    fn area(&self) -> &Arc<FrameArea> {
        self.pool.area()
    }

    fn port_count(&self) -> usize {
        self.ports.len()
    }

    fn receive(&mut self, port: PortId, max: usize, into: &mut Vec<Frame>) -> usize {
        let mut count = 0;
        while count < max {
            let port = &mut self.ports[usize::from(port.0)];
            let Some(record) = port.next.take_if(|record| record.at <= self.now) else {
                break;
            };
            let Some(mut frame) = self.pool.take() else {
                port.next = Some(record);
                break;
            };
            if self.pool.area().write(&mut frame, &record.octets) {
                into.push(frame);
                count += 1;
            } else {
                self.skipped += 1;
                self.pool.give(frame);
            }
            let result = port.read();
            self.keep(result);
        }
        count
    }

    fn stage(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        self.ports[usize::from(port.0)].staged.push(frame);
        Ok(())
    }

    fn flush(&mut self) {
        for index in 0..self.ports.len() {
            for mut frame in std::mem::take(&mut self.ports[index].staged) {
                let area = Arc::clone(self.pool.area());
                let result = self.ports[index].write(self.now, area.packet(&mut frame).bytes());
                self.pool.give(frame);
                self.keep(result);
            }
        }
    }

    fn reclaim(&mut self) {}

    fn allocate(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn release(&mut self, frame: Frame) {
        self.pool.give(frame);
    }

    fn wait(&mut self, _timeout: Duration) {}

    fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    fn statistics(&self) -> IoStatistics {
        IoStatistics {
            frames_free: self.pool.free_count() as u64,
            ..IoStatistics::default()
        }
    }
}
