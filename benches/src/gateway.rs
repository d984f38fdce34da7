//! The engine with a route on each side, and its sessions made by packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use gate64_dataplane::clock::Instant;
use gate64_dataplane::config::{InterfaceAddress, Nat64Config, Pool4Prefix, SubscriberLimits};
use gate64_dataplane::io::FrameArea;
use gate64_dataplane::memory::HashKey;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::nat64::{Batch, Nat64};
use gate64_dataplane::route::{Port, PortId, Route, RouteSnapshot};
use gate64_dataplane::verdict::{Side, WorkerId};
use gate64_wire::addr::{Protocol, TransportAddr4};
use gate64_wire::facts::tcp_flag;

use crate::BenchError;
use crate::contender::Contender;
use crate::flows::{Flow, flow, write_v4, write_v6};
use crate::frames::{Frames, RUN_FRAMES, pack};

/// Ports in a block; a subscriber has one.
pub const BLOCK: u64 = 512;
/// Whole blocks of an address whose ports begin at 1024.
pub const BLOCKS_PER_ADDRESS: u64 = (65_536 - 1024) / BLOCK;

/// How many sessions, subscribers and pool addresses.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Sessions to make.
    pub sessions: u64,
    /// Sessions that the table takes.
    pub capacity: u64,
    /// Prefixes; also the number of port blocks in use.
    pub subscribers: u64,
    /// Pool addresses, a power of two.
    pub addresses: u64,
    /// Whether each session is told to the log.
    pub log_sessions: bool,
}

impl Size {
    /// 400 sessions to a subscriber's block of 512 ports, a table as large as planned.
    pub fn of(sessions: u64) -> Size {
        let subscribers = sessions.div_ceil(400);
        Size {
            sessions,
            capacity: sessions,
            subscribers,
            addresses: (subscribers * 5 / 4)
                .div_ceil(BLOCKS_PER_ADDRESS)
                .next_power_of_two(),
            log_sessions: false,
        }
    }

    /// The same with room for more sessions.
    pub fn with_capacity(self, capacity: u64) -> Size {
        Size { capacity, ..self }
    }

    /// The same with each session told to the log.
    pub fn with_log(self) -> Size {
        Size {
            log_sessions: true,
            ..self
        }
    }

    fn config(&self) -> Nat64Config {
        let host_bits = u8::try_from(self.addresses.trailing_zeros()).unwrap_or(0);
        Nat64Config {
            pool4: vec![Pool4Prefix {
                address: Ipv4Addr::new(198, 18, 0, 0),
                length: 32 - host_bits,
                ports: 1024..=65535,
                exclude: Vec::new(),
                shared_with_host: false,
                ..Pool4Prefix::default()
            }],
            subscriber: SubscriberLimits {
                prefix_length: 64,
                port_block_size: u16::try_from(BLOCK).unwrap_or(u16::MAX),
                port_blocks_max: 2,
                session_count_max: 1 << 20,
                session_rate_max: None,
                ..SubscriberLimits::default()
            },
            ..Nat64Config::default()
        }
    }

    /// What all workers have in common.
    pub fn shared(&self, workers: u8) -> Shared {
        let settings = Settings {
            key: HashKey::seeded(1),
            seed: 1,
            log_sessions: self.log_sessions,
            ..Settings::new(workers, self.capacity)
        };
        Shared::new(Arc::new(self.config()), settings)
    }
}

/// One engine in memory.
pub struct Gateway {
    pub nat64: Nat64,
    pub routes: RouteSnapshot,
    pub now: Instant,
}

impl Gateway {
    /// An engine without sessions.
    pub fn new(size: &Size) -> Result<Gateway, BenchError> {
        Gateway::of_worker(&size.shared(1), 0)
    }

    /// One of several workers' engines.
    pub fn of_worker(shared: &Shared, worker: u8) -> Result<Gateway, BenchError> {
        Ok(Gateway {
            nat64: Nat64::new(shared, WorkerId(worker))?,
            routes: routes(),
            now: Instant::from_nanos(1_000_000_000),
        })
    }

    /// Lets time pass.
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
    }

    /// Makes the sessions of these flows, a packet each way, and tells their mapped addresses, in
    /// order.
    pub fn open(
        &mut self,
        flows: impl Iterator<Item = Flow>,
        protocol: Protocol,
        mut opened: impl FnMut(Flow, TransportAddr4),
    ) -> Result<(), BenchError> {
        let mut frames = Frames::new(64);
        let mut flows = flows.peekable();
        let mut wave = Vec::with_capacity(RUN_FRAMES);
        while flows.peek().is_some() {
            wave.clear();
            wave.extend(flows.by_ref().take(RUN_FRAMES));
            self.open_wave(&mut frames, &wave, protocol, &mut opened)?;
        }
        Ok(())
    }

    fn open_wave(
        &mut self,
        frames: &mut Frames,
        wave: &[Flow],
        protocol: Protocol,
        opened: &mut impl FnMut(Flow, TransportAddr4),
    ) -> Result<(), BenchError> {
        // The last wave repeats its last flow.
        let at = |place: usize| wave[place.min(wave.len() - 1)];
        frames.fill(|place, bytes| {
            let len = write_v6(bytes, &at(place), protocol, tcp_flag::SYN);
            (Side::V6, len)
        });
        frames.timed(self);
        let refused = frames.refused();
        if refused > 0 {
            return Err(BenchError::NotTranslated {
                what: "making sessions",
                refused,
                packets: RUN_FRAMES as u64,
            });
        }
        let mut mapped = Vec::with_capacity(RUN_FRAMES);
        let area = Arc::clone(&frames.area);
        for item in frames.items() {
            mapped.push(source_of(&area, item));
        }
        // An answer: only then is a TCP connection established, and a way back known.
        frames.fill(|place, bytes| {
            let flags = tcp_flag::SYN | tcp_flag::ACK;
            let len = write_v4(bytes, at(place).remote, mapped[place], protocol, flags);
            (Side::V4, len)
        });
        frames.timed(self);
        for (one, mapped) in wave.iter().zip(mapped) {
            opened(*one, mapped);
        }
        Ok(())
    }
}

/// Source transport address of a translated packet: behind a header without options.
pub fn source_of(area: &FrameArea, item: &mut gate64_dataplane::nat64::Item) -> TransportAddr4 {
    let packet = area.packet(&mut item.frame);
    let bytes = packet.bytes();
    // ICMP keeps its identifier where others have the length.
    let port_at = if bytes[9] == 1 { 24 } else { 20 };
    TransportAddr4 {
        ip: [bytes[12], bytes[13], bytes[14], bytes[15]].into(),
        port: u16::from_be_bytes([bytes[port_at], bytes[port_at + 1]]),
    }
}

impl Contender for Gateway {
    fn burst(&mut self, area: &FrameArea, batch: &mut Batch) {
        self.nat64.process(area, &self.routes, batch, self.now);
    }
}

/// An engine with its sessions.
pub struct Filled {
    pub gateway: Gateway,
    pub size: Size,
    /// By flow: its mapped transport address.
    pub mapped: Vec<u64>,
    /// Resident octets that engine and sessions took.
    pub resident: u64,
}

impl Filled {
    /// Makes the engine and all sessions of `size`.
    pub fn new(size: Size, protocol: Protocol) -> Result<Filled, BenchError> {
        let sessions = usize::try_from(size.sessions).unwrap_or(usize::MAX);
        // Touched before, so that it does not count as the engine's.
        let mut mapped = vec![u64::MAX; sessions];
        let before = crate::measure::resident();
        let mut gateway = Gateway::new(&size)?;
        let mut next = 0;
        let flows = (0..size.sessions).map(|number| flow(number, size.subscribers));
        gateway.open(flows, protocol, |_, address| {
            mapped[next] = pack(address);
            next += 1;
        })?;
        Ok(Filled {
            gateway,
            size,
            mapped,
            resident: crate::measure::resident().saturating_sub(before),
        })
    }
}

/// A gateway on each side, all addresses known.
pub fn routes() -> RouteSnapshot {
    let peer6 = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2);
    let peer4 = Ipv4Addr::new(203, 0, 113, 2);
    let port = |name: &str, ip: IpAddr, length: u8| Port {
        name: name.into(),
        index: 1,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        vlan: None,
        is_up: true,
        addresses: vec![InterfaceAddress { ip, length }],
    };
    let own6 = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
    RouteSnapshot::builder()
        .port(port("v6", own6.into(), 64))
        .port(port("v4", Ipv4Addr::new(203, 0, 113, 1).into(), 24))
        .route6(
            Ipv6Addr::UNSPECIFIED,
            0,
            Route::via(PortId(0), peer6.into()),
        )
        .route4(
            Ipv4Addr::UNSPECIFIED,
            0,
            Route::via(PortId(1), peer4.into()),
        )
        .neighbor(PortId(0), peer6.into(), [2, 0, 0, 0, 0, 6])
        .neighbor(PortId(1), peer4.into(), [2, 0, 0, 0, 0, 4])
        .build(1)
}
