//! The UDP front: several sockets on one address, a thread each, answers of its own for what was
//! asked shortly before. Everything else falls through to the handler that TCP has as well, on
//! the threads of [`Backs`], in bounded number; the thread never waits for it.

mod back;
mod datagrams;
mod query;
mod refusal;
mod wire_cache;

use std::io;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client_limits::Rate;
use crate::config::Protocol;
use crate::handler::Handler;
use crate::metrics::{Counts, Outcome, QueryType};
use back::{Back, General};
use datagrams::Datagrams;
use query::{Query, Read};
use refusal::Refusal;
use wire_cache::{Counted, Fill, WireCache};

pub(crate) use back::Backs;

/// Answers on their way from the general path into a thread's cache; more are not kept.
const FILLS_MAX: usize = 1024;

/// The threads of one address.
pub(crate) struct Front {
    sockets: Vec<Arc<UdpSocket>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Front {
    /// Starts a thread for each socket; all are bound to the same address. `octets_max` is what
    /// the answers kept by all of them may take; `backs` answer what they cannot.
    ///
    /// # Errors
    /// The kernel gives no thread, or does not say where datagrams came to.
    pub(crate) fn start(
        sockets: Vec<UdpSocket>,
        handler: &Arc<Handler>,
        backs: &Backs,
        octets_max: usize,
    ) -> io::Result<Front> {
        let share = octets_max / sockets.len().max(1);
        let mut front = Front {
            sockets: sockets.into_iter().map(Arc::new).collect(),
            threads: Vec::new(),
            stop: Arc::default(),
        };
        for (n, socket) in front.sockets.iter().enumerate() {
            let stop = front.stop.clone();
            let turn = Turn::new(socket.clone(), handler.clone(), backs.of(n), share, stop)?;
            let thread = std::thread::Builder::new().name(format!("dns-udp-{n}"));
            front.threads.push(thread.spawn(move || turn.run())?);
        }
        Ok(front)
    }

    /// The name of a thread that has ended though nobody told it to.
    pub(crate) fn failed_thread(&self) -> Option<String> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let mut threads = self.threads.iter();
        threads.find(|thread| thread.is_finished()).map(name)
    }

    /// Tells the threads to end; they may send the answers that they have.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            stop_receiving(socket);
        }
    }

    /// Waits until all have ended and the address is free.
    pub(crate) fn join(mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that serves DNS over UDP panicked: a bug");
            }
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Every thread here has a name.
fn name(thread: &JoinHandle<()>) -> String {
    thread.thread().name().unwrap_or_default().to_owned()
}

/// Wakes a thread that waits on the socket. On one that is not connected, shutdown reports that
/// it is not, and wakes nonetheless (inet_shutdown, Linux 2.6 to 6.18).
fn stop_receiving(socket: &UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    if let Err(error) = socket.shutdown(Shutdown::Both)
        && error.kind() != io::ErrorKind::NotConnected
    {
        tracing::debug!(%error, "a DNS socket was not shut down");
    }
}

/// One thread: its socket, its cache, its counters.
struct Turn {
    socket: Arc<UdpSocket>,
    datagrams: Datagrams,
    cache: WireCache,
    fills: Receiver<Fill>,
    fill: SyncSender<Fill>,
    handler: Arc<Handler>,
    counts: Arc<Counts>,
    back: Back,
    /// Whether it was said that the thread behind this one has ended.
    is_back_missed: bool,
    stop: Arc<AtomicBool>,
}

/// What does not change while a batch of datagrams is answered.
struct Now {
    time: Duration,
    seconds: u32,
    generation: u32,
    /// Whether synthetic answers may be given.
    is_ready: bool,
}

impl Turn {
    fn new(
        socket: Arc<UdpSocket>,
        handler: Arc<Handler>,
        back: Back,
        octets_max: usize,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Turn> {
        let is_wildcard = socket.local_addr()?.ip().is_unspecified();
        let (fill, fills) = sync_channel(FILLS_MAX);
        Ok(Turn {
            datagrams: Datagrams::new(socket.clone(), is_wildcard)?,
            socket,
            cache: WireCache::new(octets_max),
            fills,
            fill,
            counts: handler.kept.metrics.add_counts(),
            handler,
            back,
            is_back_missed: false,
            stop,
        })
    }

    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.datagrams.receive() {
                Ok(count) => self.serve(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // An ICMP error for an earlier answer is no reason to stop.
                Err(error) => tracing::debug!(%error, "no datagram"),
            }
        }
    }

    fn serve(&mut self, count: usize) {
        let begun = Instant::now();
        let now = self.now();
        while let Ok(fill) = self.fills.try_recv() {
            self.cache.insert(fill);
        }
        let mut answered = 0;
        for n in 0..count {
            answered += u64::from(self.serve_one(n, &now));
        }
        self.datagrams.send();
        self.counts.observe(begun.elapsed(), answered);
        self.counts.set_cache(self.cache.len(), self.cache.octets());
    }

    fn now(&self) -> Now {
        let time = self.handler.clock.now();
        Now {
            time,
            seconds: whole_seconds(time),
            generation: self.handler.generation.load(Ordering::Acquire),
            is_ready: self.handler.kept.ready.load(Ordering::Relaxed),
        }
    }

    /// Whether the datagram was answered here.
    fn serve_one(&mut self, n: usize, now: &Now) -> bool {
        let Some(client) = self.datagrams.client(n).filter(|client| client.port() != 0) else {
            return false;
        };
        let Some(octets) = self.datagrams.query(n) else {
            return false;
        };
        let mut query = match query::read(octets) {
            Read::Silent => return false,
            Read::Other => None,
            Read::Plain(query) => Some(query),
        };
        let responder = self.handler.responder.load();
        match self.handler.judge(&responder, client.ip(), now.time) {
            Rate::Within => {}
            Rate::Slip => return self.refuse(n, query, refusal::SLIP, Outcome::RateLimited),
            Rate::Drop => {
                self.count(query.as_ref(), Outcome::RateLimited);
                return false;
            }
        }
        let Some(class) = responder.clients.class(client.ip()) else {
            return self.refuse(n, query, refusal::PROHIBITED, Outcome::Refused);
        };
        if let Some(query) = &mut query {
            query.set_client_class(class.0);
            if self.answer_from_cache(n, query, now) {
                return true;
            }
        }
        drop(responder);
        self.fall_through(n, query, client, now.generation)
    }

    fn answer_from_cache(&mut self, n: usize, query: &Query, now: &Now) -> bool {
        let Some(hit) = self.cache.get(query.key(), now.seconds, now.generation) else {
            return false;
        };
        let Counted { qtype, outcome } = hit.counted;
        let is_synthetic = outcome == Outcome::Synthesized;
        if hit.len() > usize::from(query.payload_max) || is_synthetic && !now.is_ready {
            return false;
        }
        let mut is_written = false;
        self.datagrams.answer_with(n, |octets, out| {
            let len = hit.write(octets, query.question_end, out);
            is_written = len.is_some();
            len
        });
        if is_written {
            self.counts.count_own(Protocol::Udp, qtype, outcome);
            self.counts.count_cache_hit();
        }
        is_written
    }

    /// Answers with a refusal: always true, so that it counts as answered.
    fn refuse(&mut self, n: usize, query: Option<Query>, refusal: Refusal, as_: Outcome) -> bool {
        self.count(query.as_ref(), as_);
        if let Some((code, _)) = refusal.error
            && query.as_ref().is_some_and(Query::has_edns)
        {
            let metrics = &self.handler.kept.metrics;
            metrics.count_extended_error(code as u16);
        }
        self.datagrams
            .answer_with(n, |octets, out| refusal.write(octets, query.as_ref(), out));
        true
    }

    fn count(&self, query: Option<&Query>, outcome: Outcome) {
        let qtype = query.map_or(QueryType::Other, |query| query.qtype().into());
        self.counts.count_own(Protocol::Udp, qtype, outcome);
    }

    /// Gives the question to the handler on the general path, if not too many are there.
    fn fall_through(
        &mut self,
        n: usize,
        query: Option<Query>,
        client: SocketAddr,
        generation: u32,
    ) -> bool {
        let Some(admitted) = self.handler.admit(client.ip()) else {
            return self.refuse(n, query, refusal::OVERLOAD, Outcome::Overload);
        };
        let Some(octets) = self.datagrams.query(n) else {
            return false;
        };
        let untaken = self.back.take(General {
            octets: octets.to_vec(),
            query,
            client,
            path: self.datagrams.return_path(n),
            socket: self.socket.clone(),
            handler: self.handler.clone(),
            fill: self.fill.clone(),
            generation,
            admitted,
        });
        match untaken {
            None => false,
            Some(general) => {
                self.miss_back();
                self.refuse(n, general.query, refusal::BROKEN, Outcome::ServFail)
            }
        }
    }

    fn miss_back(&mut self) {
        if !std::mem::replace(&mut self.is_back_missed, true) {
            tracing::error!(
                "the thread that asks upstreams for clients over UDP has ended: a bug; what is not \
                 kept ready-made gets SERVFAIL"
            );
        }
    }
}

fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}
