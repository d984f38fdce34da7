//! A worker: one thread on one core, with queues of every interface and a share of the sessions.
//!
//! It reads the clock once a turn, moves frames between ports and engine, and obeys the engine's
//! verdicts without deciding anything again. Everything in a turn is bounded.

mod handoff;
mod link;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use crossbeam::channel::{Receiver, TryRecvError};
use rtrb::Producer;

pub use self::handoff::{HandedOff, Handoff};
use self::waiting::{Neighbor, WaitingRoom};
use crate::clock::{Clock, Instant};
use crate::command::{Command, Event};
use crate::counters::{self, Counters, PublishedCounters};
use crate::io::{BURST_FRAMES_MAX, FrameArea, PacketIo};
use crate::nat64::{Batch, Hop, Item, Nat64};
use crate::packet::Frame;
use crate::route::{NextHop, PortId, RouteSnapshot};
use crate::verdict::{DropReason, Side, Verdict};

/// Commands applied in a turn.
const COMMANDS_PER_TURN: usize = 4;

/// Entries looked at for expiry in a turn: as many as a turn can make new.
pub const EXPIRY_PER_TURN: usize = 256;

/// Entries looked at before the clock is asked again: few enough that a step all of whose lines,
/// page translations and code are cold stays short, a third of what the wheel keeps in a line.
pub const EXPIRY_STEP: usize = 5;

/// No further step begins after this: expiry delays the next packets by little more.
pub const EXPIRY_TIME: Duration = Duration::from_micros(8);

/// Packets of the engine's own sent in a turn.
const OWN_PACKETS_PER_TURN: usize = 64;

/// Events passed on in a turn.
const EVENTS_PER_TURN: usize = 256;

/// Counters are published this often at least while there is work.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// Longest sleep; a packet, a command or a hand-off ends it earlier.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// When a worker without traffic goes to sleep. That saves a core, and costs the first packet
/// the time that the kernel takes to wake a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Time without work until it sleeps; `None`: it never does.
    pub after: Option<Duration>,
}

impl Default for Idle {
    fn default() -> Idle {
        Idle {
            after: Some(Duration::from_millis(1)),
        }
    }
}

/// A worker's connections to the rest of the process.
pub struct Links {
    /// Rings to and from the other workers.
    pub handoff: Handoff,
    /// What control asks.
    pub commands: Receiver<Command>,
    /// What control is told.
    pub events: Producer<Event>,
    /// Where the counters go.
    pub published: Arc<PublishedCounters>,
    /// Routes and neighbours, as control last published them.
    pub routes: Arc<ArcSwap<RouteSnapshot>>,
}

/// One worker.
pub struct Worker<I, C> {
    io: I,
    area: Arc<FrameArea>,
    clock: C,
    nat64: Nat64,
    /// By port: its 802.1Q id.
    vlans: Vec<Option<u16>>,
    newest_routes: Cache<Arc<ArcSwap<RouteSnapshot>>, Arc<RouteSnapshot>>,
    routes: Arc<RouteSnapshot>,
    handoff: Handoff,
    waiting: WaitingRoom,
    commands: Receiver<Command>,
    events: Producer<Event>,
    published: Arc<PublishedCounters>,
    published_at: Instant,
    received: Vec<Frame>,
    batch: Batch,
    idle: Idle,
    /// When there was work last.
    busy_at: Instant,
    turn_began: Instant,
    was_busy: bool,
    stopping: bool,
}

impl<I: PacketIo, C: Clock> Worker<I, C> {
    /// A worker over its ports, whose 802.1Q ids are given in their order.
    pub fn new(
        io: I,
        clock: C,
        nat64: Nat64,
        vlans: Vec<Option<u16>>,
        links: Links,
        idle: Idle,
    ) -> Worker<I, C> {
        assert_eq!(io.port_count(), vlans.len());
        Worker {
            area: Arc::clone(io.area()),
            io,
            clock,
            nat64,
            vlans,
            routes: links.routes.load_full(),
            newest_routes: Cache::new(links.routes),
            handoff: links.handoff,
            waiting: WaitingRoom::new(),
            commands: links.commands,
            events: links.events,
            published: links.published,
            published_at: Instant::ZERO,
            received: Vec::with_capacity(BURST_FRAMES_MAX),
            batch: Batch::default(),
            idle,
            busy_at: Instant::ZERO,
            turn_began: Instant::ZERO,
            was_busy: false,
            stopping: false,
        }
    }

    /// Turns until nobody can have commands for it any more.
    pub fn run(&mut self) {
        while !self.stopping {
            if self.turn() {
                self.busy_at = self.turn_began;
            } else if let Some(after) = self.idle.after
                && self.turn_began.since(self.busy_at) >= after
            {
                self.sleep();
            }
        }
        self.publish();
    }

    /// One turn. Answers whether there was anything to do.
    pub fn turn(&mut self) -> bool {
        let now = self.clock.now();
        self.account(now);
        let mut work = self.apply_commands(now);
        self.follow_routes(now);
        for port in 0..self.vlans.len() {
            work += self.serve_port(port, now);
        }
        work += self.serve_peers(now);
        work += expire(&mut self.nat64, &self.routes, &mut self.clock, now);
        work += self.send_own(now);
        self.give_up_waiting(now);
        self.io.flush();
        self.handoff.flush();
        self.io.reclaim();
        work += self.pass_events();
        self.was_busy = work > 0;
        self.was_busy
    }

    /// The ports.
    pub fn io(&mut self) -> &mut I {
        &mut self.io
    }

    /// Ends the worker and keeps its ports.
    pub fn into_io(self) -> I {
        self.io
    }

    /// The clock.
    pub fn clock(&mut self) -> &mut C {
        &mut self.clock
    }

    /// The counters as they are now.
    pub fn counters(&mut self) -> &mut Counters {
        self.nat64.counters()
    }

    /// The engine.
    pub fn nat64(&mut self) -> &mut Nat64 {
        &mut self.nat64
    }

    /// Counts the last turn, whose end is this one's beginning, and publishes now and then.
    fn account(&mut self, now: Instant) {
        let spent = now.since(self.turn_began).as_nanos();
        self.turn_began = now;
        let counters = self.nat64.counters();
        counters.add(counters::turns(0), 1);
        if self.was_busy {
            let spent = u64::try_from(spent).unwrap_or(u64::MAX);
            counters.add(counters::turns_busy(0), 1);
            counters.add(counters::busy_nanoseconds(0), spent);
            counters.observe(counters::turn_nanoseconds(0), spent);
        }
        if now.since(self.published_at) >= PUBLISH_EVERY {
            self.published_at = now;
            self.publish();
        }
    }

    fn publish(&mut self) {
        let statistics = self.io.statistics();
        let counters = self.nat64.counters();
        counters.set(counters::syscalls(0), statistics.syscalls);
        counters.publish(&self.published);
    }

    fn apply_commands(&mut self, now: Instant) -> usize {
        for done in 0..COMMANDS_PER_TURN {
            match self.commands.try_recv() {
                Ok(command) => self.nat64.command(command, now),
                Err(TryRecvError::Empty) => return done,
                Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    return done;
                }
            }
        }
        COMMANDS_PER_TURN
    }

    /// Takes over a new snapshot of the routes, and sends what waited for a neighbour in it.
    fn follow_routes(&mut self, now: Instant) {
        let newest = self.newest_routes.load();
        if Arc::ptr_eq(newest, &self.routes) {
            return;
        }
        let newest = Arc::clone(newest);
        // What the engine has ready to leave has next hops of the old one.
        while self.send_own(now) > 0 {}
        self.routes = newest;
        while let Some((waiting, hop)) = self.waiting.take_resolved(&self.routes) {
            let sides = (waiting.from, waiting.to);
            self.leave(waiting.frame, sides, Hop::Resolved(hop), now);
        }
    }

    /// Receives a burst from a port and works it.
    fn serve_port(&mut self, port: usize, now: Instant) -> usize {
        let vlan = self.vlans[port];
        let port = PortId(u8::try_from(port).unwrap_or(u8::MAX));
        let count = self.io.receive(port, BURST_FRAMES_MAX, &mut self.received);
        if count == 0 {
            return 0;
        }
        for frame in &self.received {
            self.area.prefetch(frame);
        }
        for mut frame in self.received.drain(..) {
            match link::strip(&mut self.area.packet(&mut frame), vlan) {
                Ok(side) => self.batch.items.push(item(frame, side, port, false)),
                Err(reason) => {
                    // What is no IP has no side: it counts where it is more likely from.
                    let id = counters::drop_id(Side::V6, reason);
                    self.nat64.counters().add(id, 1);
                    self.io.release(frame);
                }
            }
        }
        self.work_batch(now);
        count
    }

    /// Takes a burst that other workers handed over and works it.
    fn serve_peers(&mut self, now: Instant) -> usize {
        let (items, area) = (&mut self.batch.items, &self.area);
        let count = self.handoff.receive(BURST_FRAMES_MAX, |packet| {
            // Its octets are in the other core's cache.
            area.prefetch(&packet.frame);
            items.push(item(packet.frame, packet.side, packet.port, true));
        });
        if count > 0 {
            let counters = self.nat64.counters();
            counters.add(counters::handoff_received(0), count as u64);
            self.work_batch(now);
        }
        count
    }

    /// Lets the engine translate the batch, and obeys.
    fn work_batch(&mut self, now: Instant) {
        let counters = self.nat64.counters();
        counters.observe(counters::burst_frames(0), self.batch.items.len() as u64);
        self.nat64
            .process(&self.area, &self.routes, &mut self.batch, now);
        let mut items = std::mem::take(&mut self.batch.items);
        for item in items.drain(..) {
            self.obey(item, now);
        }
        self.batch.items = items;
    }

    #[inline]
    fn obey(&mut self, item: Item, now: Instant) {
        match item.verdict {
            Verdict::Forward(to) => self.leave(item.frame, (item.side, to), item.hop, now),
            Verdict::Drop(_) | Verdict::Hold => self.io.release(item.frame),
            Verdict::Handoff { worker, side } => {
                let packet = HandedOff {
                    frame: item.frame,
                    side,
                    port: item.port,
                };
                if let Err(packet) = self.handoff.send(worker, packet) {
                    self.refuse(packet.frame, item.side, DropReason::HandoffFull);
                }
            }
        }
    }

    /// Sends an IP packet to its next hop, or lets it wait for that.
    #[inline]
    fn leave(&mut self, frame: Frame, sides: (Side, Side), hop: Hop, now: Instant) {
        match hop {
            Hop::Resolved(id) => {
                match self.routes.hops().get(usize::from(id.0)) {
                    Some(&hop) => self.send(frame, sides, &hop),
                    // Never: all that leaves in a turn has hops of its snapshot.
                    None => self.refuse(frame, sides.0, DropReason::NoRoute),
                }
            }
            Hop::Unresolved { port, ip } => {
                self.wait_for(frame, sides, Neighbor { port, ip }, now);
            }
            Hop::None => self.refuse(frame, sides.0, DropReason::NoRoute),
        }
    }

    #[inline]
    fn send(&mut self, mut frame: Frame, (from, to): (Side, Side), hop: &NextHop) {
        if usize::from(hop.port.0) >= self.vlans.len() {
            return self.refuse(frame, from, DropReason::RouteElsewhere);
        }
        if let Err(reason) = link::write(&mut self.area.packet(&mut frame), hop, to) {
            return self.refuse(frame, from, reason);
        }
        if let Err(frame) = self.io.stage(hop.port, frame) {
            self.refuse(frame, from, DropReason::TxRingFull);
        }
    }

    #[cold]
    fn wait_for(&mut self, frame: Frame, sides: (Side, Side), neighbor: Neighbor, now: Instant) {
        match self.waiting.add(frame, sides, neighbor, now) {
            Ok(true) => {
                let Neighbor { port, ip } = neighbor;
                if self
                    .events
                    .push(Event::NeighborWanted { port, ip })
                    .is_err()
                {
                    self.nat64.counters().add(counters::events_lost(0), 1);
                }
            }
            Ok(false) => {}
            Err(frame) => self.refuse(frame, sides.0, DropReason::NeighborQueueFull),
        }
    }

    fn give_up_waiting(&mut self, now: Instant) {
        while let Some(late) = self.waiting.take_late(now) {
            self.refuse(late.frame, late.from, DropReason::NeighborUnresolved);
        }
    }

    /// Counts a packet that the worker itself cannot send on.
    #[cold]
    fn refuse(&mut self, frame: Frame, from: Side, reason: DropReason) {
        let counters = self.nat64.counters();
        counters.add(counters::drop_id(from, reason), 1);
        self.io.release(frame);
    }

    /// Sends packets that the engine made itself.
    fn send_own(&mut self, now: Instant) -> usize {
        for done in 0..OWN_PACKETS_PER_TURN {
            let Some(own) = self.nat64.next_outgoing() else {
                return done;
            };
            let (verdict, hop) = (own.verdict, own.hop);
            let from = match verdict {
                Verdict::Forward(to) => to.other(),
                Verdict::Handoff { side, .. } => side,
                Verdict::Drop(_) | Verdict::Hold => continue,
            };
            let frame = self.io.allocate().map(|mut frame| {
                let fits = self.area.write(&mut frame, own.bytes);
                (frame, fits)
            });
            match frame {
                Some((frame, true)) => {
                    let mut own = item(frame, from, PortId(0), false);
                    (own.verdict, own.hop) = (verdict, hop);
                    self.obey(own, now);
                }
                Some((frame, false)) => self.refuse(frame, from, DropReason::PacketTooBig),
                None => {
                    let id = counters::drop_id(from, DropReason::FramesExhausted);
                    self.nat64.counters().add(id, 1);
                }
            }
        }
        OWN_PACKETS_PER_TURN
    }

    fn pass_events(&mut self) -> usize {
        pass_events(&mut self.nat64, &mut self.events)
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self) {
        self.publish();
        let waker = Arc::clone(self.io.waker());
        waker.drowsy();
        let has_work = !self.commands.is_empty() || self.handoff.has_work();
        if !has_work {
            self.io.wait(SLEEP_MAX);
        }
        waker.awake();
    }
}

/// Passes a turn's events on while there is room in the ring; what stays with the engine is lost
/// there, and counted, if it becomes too much. Answers how many it passed on.
pub fn pass_events(nat64: &mut Nat64, ring: &mut Producer<Event>) -> usize {
    for done in 0..EVENTS_PER_TURN {
        if ring.is_full() {
            return done;
        }
        let Some(event) = nat64.take_event() else {
            return done;
        };
        // Cannot fail: there was room, and nobody else fills the ring.
        let _ = ring.push(event);
    }
    EVENTS_PER_TURN
}

/// The expiry of a turn that began at `now`: visits due sessions and blocks until there are none,
/// or the turn's time or number for it is used up. Answers how many it visited.
pub fn expire(
    nat64: &mut Nat64,
    routes: &RouteSnapshot,
    clock: &mut impl Clock,
    now: Instant,
) -> usize {
    if !nat64.is_due(now) {
        // Clears, cuts and searches go by steps of their own; there is nothing to time otherwise.
        return nat64.expire(routes, now, EXPIRY_STEP);
    }
    let began = clock.now();
    let mut visited = nat64.expire(routes, now, EXPIRY_STEP);
    while (EXPIRY_STEP..EXPIRY_PER_TURN).contains(&visited)
        && clock.now().since(began) < EXPIRY_TIME
    {
        let step = nat64.expire(routes, now, EXPIRY_STEP);
        if step == 0 {
            break;
        }
        visited += step;
    }
    visited
}

#[inline]
fn item(frame: Frame, side: Side, port: PortId, handed_off: bool) -> Item {
    Item {
        frame,
        side,
        port,
        handed_off,
        verdict: Verdict::Hold,
        hop: Hop::None,
    }
}
