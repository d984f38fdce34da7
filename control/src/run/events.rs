//! What workers tell: next hops they want, blocks and sessions for the log.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use gate64_dataplane::clock::{Clock as _, MonotonicClock};
use gate64_dataplane::command::{BlockEvent, Event, SessionEvent};
use gate64_dataplane::counters;
use gate64_dataplane::gateway::Gateway;
use gate64_dataplane::route::RouteSnapshot;
use gate64_log::{Block, BlockAction, Prefix6, Session, SessionAction, What};
use rtrb::Consumer;

use super::{Translator, lock};
use crate::netlink::Router;
use crate::state::State;

/// How often the rings are emptied: what a first packet to a new neighbour waits in addition.
const EVERY: Duration = Duration::from_millis(5);

/// Rounds between two looks at the wall clock and at what was lost.
const ROUNDS_PER_LOOK: u32 = 20;

/// Takes events from the workers and sees that they notice new routes.
pub(super) struct Pump {
    gateway: Arc<Mutex<Gateway>>,
    router: Arc<Router>,
    routes: Arc<ArcSwap<RouteSnapshot>>,
    generation: u32,
    clock: MonotonicClock,
    events_lost: u64,
    state: Arc<State>,
}

impl Pump {
    /// A pump whose workers read `clock`.
    pub(super) fn new(translator: &Translator, clock: MonotonicClock, state: Arc<State>) -> Pump {
        Pump {
            gateway: Arc::clone(&translator.gateway),
            router: Arc::clone(&translator.router),
            routes: Arc::clone(&translator.routes),
            generation: 0,
            clock,
            events_lost: 0,
            state,
        }
    }

    /// Goes on until `stop` completes.
    pub(super) async fn run(
        mut self,
        mut rings: Vec<Consumer<Event>>,
        stop: impl Future<Output = ()>,
    ) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stop);
        for round in 0u32.. {
            let stops = tokio::select! {
                () = &mut stop => true,
                _ = tick.tick() => false,
            };
            if stops || round % ROUNDS_PER_LOOK == 0 {
                self.look_at_clock_and_losses();
            }
            for ring in &mut rings {
                self.empty(ring);
            }
            if stops {
                return;
            }
            self.wake_for_new_routes();
        }
    }

    /// A step of the wall clock has to stand in the log before what happened after it.
    fn look_at_clock_and_losses(&mut self) {
        let log = &self.state.log;
        log.observe_clock(self.clock.now().as_nanos(), SystemTime::now());
        let lost = self.state.total(counters::events_lost(0));
        if lost > self.events_lost {
            log.tell(What::Lost(lost - self.events_lost));
            self.events_lost = lost;
        }
    }

    fn empty(&self, ring: &mut Consumer<Event>) {
        let mut told = Vec::new();
        while let Ok(event) = ring.pop() {
            match event {
                Event::NeighborWanted { port, ip } => self.router.resolve(port, ip),
                Event::BlockAllocated(block) => {
                    told.push(block_event(BlockAction::Allocated, block))
                }
                Event::BlockReleased(block) => told.push(block_event(BlockAction::Released, block)),
                Event::BlockLive(block) => told.push(block_event(BlockAction::Live, block)),
                Event::SessionCreated(one) => told.push(session_event(SessionAction::Created, one)),
                Event::SessionDeleted(one) => told.push(session_event(SessionAction::Deleted, one)),
            }
        }
        if !told.is_empty() {
            self.state.log.publish(told);
        }
    }

    /// A sleeping worker would see new routes only after its sleep.
    fn wake_for_new_routes(&mut self) {
        let generation = self.routes.load().generation();
        if generation != self.generation {
            self.generation = generation;
            lock(&self.gateway).wake();
        }
    }
}

fn block_event(action: BlockAction, event: BlockEvent) -> gate64_log::Event {
    let block = Block {
        subscriber: Prefix6 {
            ip: event.subscriber,
            length: event.prefix_length,
        },
        v4: event.v4,
        port_first: event.port_first,
        port_count: event.port_count,
    };
    gate64_log::Event {
        at_nanos: event.at.as_nanos(),
        what: What::Block(action, block),
    }
}

fn session_event(action: SessionAction, event: SessionEvent) -> gate64_log::Event {
    let session = Session {
        protocol: event.protocol,
        v6: event.v6,
        v6_remote: event.v6_remote,
        v4: event.v4,
        v4_remote: event.v4_remote,
    };
    gate64_log::Event {
        at_nanos: event.at.as_nanos(),
        what: What::Session(action, session),
    }
}
