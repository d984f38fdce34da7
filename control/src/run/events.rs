//! What workers tell: next hops they want, blocks and sessions for the log.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use gate64_dataplane::command::Event;
use gate64_dataplane::gateway::Gateway;
use gate64_dataplane::route::RouteSnapshot;
use rtrb::Consumer;

use super::{Translator, lock};
use crate::netlink::Router;
use crate::state::State;

/// How often the rings are emptied: what a first packet to a new neighbour waits in addition.
const EVERY: Duration = Duration::from_millis(5);

/// Takes events from the workers and sees that they notice new routes.
pub(super) struct Pump {
    gateway: Arc<Mutex<Gateway>>,
    router: Arc<Router>,
    routes: Arc<ArcSwap<RouteSnapshot>>,
    generation: u32,
    state: Arc<State>,
}

impl Pump {
    pub(super) fn new(translator: &Translator, state: Arc<State>) -> Pump {
        Pump {
            gateway: Arc::clone(&translator.gateway),
            router: Arc::clone(&translator.router),
            routes: Arc::clone(&translator.routes),
            generation: 0,
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
        loop {
            tokio::select! {
                () = &mut stop => return,
                _ = tick.tick() => {}
            }
            for ring in &mut rings {
                while let Ok(event) = ring.pop() {
                    self.take(event);
                }
            }
            self.wake_for_new_routes();
        }
    }

    fn take(&self, event: Event) {
        match event {
            Event::NeighborWanted { port, ip } => return self.router.resolve(port, ip),
            Event::BlockAllocated(block) => tracing::debug!(?block, "port block allocated"),
            Event::BlockReleased(block) => tracing::debug!(?block, "port block released"),
            Event::SessionCreated(session) => tracing::debug!(?session, "session created"),
            Event::SessionDeleted(session) => tracing::debug!(?session, "session deleted"),
        }
        self.state.log_events.fetch_add(1, Ordering::Relaxed);
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
