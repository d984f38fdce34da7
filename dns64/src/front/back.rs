//! The general path of questions over UDP: threads behind those of the front, with a runtime
//! each. A question stays on one of them, with its sockets and its timers, from the front to its
//! answer, so no other thread is woken on its way.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use hickory_net::xfer;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::datagrams::{ANSWER_OCTETS_MAX, ReturnPath};
use super::query::Query;
use super::refusal;
use super::whole_seconds;
use super::wire_cache::{Counted, Fill};
use crate::config::Protocol;
use crate::encode;
use crate::handler::{Admitted, Handler};
use crate::request;

/// Questions that are begun before any of them goes on.
const BATCH: usize = 64;

/// The threads. Each ends when this and the fronts that it serves are gone.
pub(crate) struct Backs(Vec<(Back, JoinHandle<()>)>);

/// The way to one of them. What waits there is bounded by the clients that may wait at all.
#[derive(Clone)]
pub(super) struct Back(UnboundedSender<General>);

impl Backs {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// The kernel gives no thread, or no epoll.
    pub(crate) fn start(count: usize) -> io::Result<Backs> {
        (0..count.max(1))
            .map(Back::start)
            .collect::<io::Result<_>>()
            .map(Backs)
    }

    /// The one behind the front's thread `n`.
    pub(super) fn of(&self, n: usize) -> Back {
        self.0[n % self.0.len()].0.clone()
    }

    /// The name of a thread that has ended: none does by itself while this is there.
    pub(crate) fn failed_thread(&self) -> Option<String> {
        let mut threads = self.0.iter().map(|(_, thread)| thread);
        threads.find(|thread| thread.is_finished()).map(super::name)
    }

    /// One thread that has ended.
    #[cfg(test)]
    pub(crate) fn dead() -> Backs {
        let (sender, questions) = unbounded_channel();
        let thread = std::thread::Builder::new().name("dns-ask-0".into());
        let thread = thread.spawn(move || drop(questions)).unwrap();
        while !thread.is_finished() {
            std::thread::yield_now();
        }
        Backs(vec![(Back(sender), thread)])
    }
}

impl Back {
    fn start(n: usize) -> io::Result<(Back, JoinHandle<()>)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (sender, questions) = unbounded_channel();
        let thread = std::thread::Builder::new().name(format!("dns-ask-{n}"));
        let thread = thread.spawn(move || runtime.block_on(answer_all(questions)))?;
        Ok((Back(sender), thread))
    }

    /// Answers the question, soon. Gives it back if the thread has ended, which is a bug.
    pub(super) fn take(&self, question: General) -> Option<General> {
        self.0.send(question).err().map(|unsent| unsent.0)
    }
}

async fn answer_all(mut questions: UnboundedReceiver<General>) {
    let mut begun = Vec::with_capacity(BATCH);
    while questions.recv_many(&mut begun, BATCH).await > 0 {
        for general in begun.drain(..) {
            tokio::spawn(general.answer());
        }
    }
}

/// A question on the general path.
pub(super) struct General {
    pub(super) octets: Vec<u8>,
    pub(super) query: Option<Query>,
    pub(super) client: SocketAddr,
    pub(super) path: ReturnPath,
    pub(super) socket: Arc<UdpSocket>,
    pub(super) handler: Arc<Handler>,
    pub(super) fill: SyncSender<Fill>,
    pub(super) generation: u32,
    /// Counts the client as long as it waits.
    pub(super) admitted: Admitted,
}

impl General {
    async fn answer(self) {
        let octets = self.octets.clone();
        let Some(request) = request::read(octets, self.client, xfer::Protocol::Udp) else {
            return self.refuse();
        };
        let handled = self.handler.handle(&request).await;
        let born = whole_seconds(self.handler.clock.now());
        let payload_max = self.query.as_ref().map(|query| query.payload_max);
        let payload_max = payload_max.unwrap_or_else(|| encode::payload_max(&request));
        let Some(message) = encode::message(&request, &handled, payload_max) else {
            return;
        };
        if let Err(error) = self.path.send(&self.socket, &message) {
            tracing::debug!(client = %self.client, %error, "answer not sent");
        }
        if let Some(query) = self.query {
            let fill = Fill {
                key: query.key().into(),
                message,
                born,
                generation: self.generation,
                counted: Counted {
                    qtype: handled.qtype,
                    outcome: handled.outcome,
                },
            };
            // A thread that is behind with its fills asks again.
            let _ = self.fill.try_send(fill);
        }
        drop(self.admitted);
    }

    /// To octets that are no request.
    fn refuse(&self) {
        let opcode = self.octets.get(2).map_or(0, |octet| octet & 0x78);
        let refusal = match opcode {
            0 => refusal::FORMERR,
            _ => refusal::NOTIMP,
        };
        self.handler.count_unreadable(Protocol::Udp);
        let mut out = [0; ANSWER_OCTETS_MAX];
        if let Some(len) = refusal.write(&self.octets, None, &mut out)
            && let Err(error) = self.path.send(&self.socket, &out[..len])
        {
            tracing::debug!(client = %self.client, %error, "answer not sent");
        }
    }
}
