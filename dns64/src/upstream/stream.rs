//! Questions over connections kept open: TCP, TLS and HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use hickory_net::h2::HttpsClientStream;
use hickory_net::runtime::{RuntimeProvider, Spawn, TokioRuntimeProvider};
use hickory_net::tcp::TcpClientStream;
use hickory_net::tls::tls_client_connect;
use hickory_net::xfer::DnsExchange;
use hickory_net::{DnsHandle, DnsMultiplexer, NetError};
use hickory_proto::op::Message;
use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::message::{check, request};
use super::{AskError, tls};
use crate::answer::Question;
use crate::config::{Protocol, Upstream};
use crate::metrics::Raised;

/// Connections to one upstream, and questions under way on each.
const CONNECTIONS_MAX: usize = 4;
const ACTIVE_MAX: usize = 256;

/// hickory gives a question up after this; ours are given up earlier.
const HICKORY_TIMEOUT: Duration = Duration::from_secs(30);

/// After a connection was refused, none is tried for this long.
const REDIAL_PAUSE: Duration = Duration::from_millis(250);

type Stream = DnsExchange<TokioRuntimeProvider>;

/// The connections to one upstream. A further one is made when the others are full.
pub(super) struct Connections {
    dial: Dial,
    slots: [Slot; CONNECTIONS_MAX],
}

/// A place for one connection.
struct Slot {
    /// Held while a connection is made, so that one is made for all who wait.
    kept: Mutex<Kept>,
    active: AtomicU64,
    heard: StdMutex<Option<Instant>>,
}

#[derive(Default)]
struct Kept {
    stream: Option<Stream>,
    /// Counts connections: who found one broken discards that one and not its successor.
    serial: u64,
    refused: Option<(Instant, String)>,
}

/// A connection as a question uses it.
struct Lent {
    stream: Stream,
    serial: u64,
    /// It may have been closed since the last question.
    is_old: bool,
}

impl Connections {
    pub(super) fn new(upstream: Upstream, tls: Option<Arc<ClientConfig>>) -> Connections {
        Connections {
            dial: Dial {
                upstream,
                tls,
                provider: TokioRuntimeProvider::default(),
            },
            slots: std::array::from_fn(|_| Slot {
                kept: Mutex::default(),
                active: AtomicU64::new(0),
                heard: StdMutex::default(),
            }),
        }
    }

    /// Asks over the first connection that has room. The caller bounds the time.
    pub(super) async fn ask(&self, question: &Question) -> Result<Message, AskError> {
        let has_room = |slot: &&Slot| slot.active.load(Ordering::Relaxed) < ACTIVE_MAX as u64;
        let slot = self.slots.iter().find(has_room).ok_or(AskError::Busy)?;
        let _active = Raised::new(&slot.active);
        let lent = slot.lend(&self.dial).await?;
        let is_old = lent.is_old;
        match slot.send(lent, question).await {
            // Closed by the upstream since: that is no failure, but a reason for a new one.
            Err(_) if is_old => {
                let lent = slot.lend(&self.dial).await?;
                slot.send(lent, question).await
            }
            asked => asked,
        }
    }
}

impl Slot {
    async fn lend(&self, dial: &Dial) -> Result<Lent, AskError> {
        let mut kept = self.kept.lock().await;
        if let Some(stream) = &kept.stream {
            return Ok(Lent {
                stream: stream.clone(),
                serial: kept.serial,
                is_old: true,
            });
        }
        if let Some((at, reason)) = &kept.refused
            && at.elapsed() < REDIAL_PAUSE
        {
            return Err(AskError::NotConnected(reason.clone()));
        }
        match dial.connect().await {
            Ok(stream) => {
                kept.serial += 1;
                kept.refused = None;
                kept.stream = Some(stream.clone());
                Ok(Lent {
                    stream,
                    serial: kept.serial,
                    is_old: false,
                })
            }
            Err(error) => {
                let reason = error.to_string();
                kept.refused = Some((Instant::now(), reason.clone()));
                Err(AskError::NotConnected(reason))
            }
        }
    }

    async fn send(&self, lent: Lent, question: &Question) -> Result<Message, AskError> {
        let mut waiting = Waiting {
            slot: self,
            serial: lent.serial,
            begun: Instant::now(),
            is_over: false,
        };
        let response = lent.stream.send(request(question)).next().await;
        waiting.is_over = true;
        match response {
            Some(Ok(response)) => {
                self.note_heard();
                check(question, response.into_message())
            }
            Some(Err(error)) => {
                self.discard(lent.serial).await;
                Err(error.into())
            }
            None => {
                self.discard(lent.serial).await;
                Err(NetError::Message("connection closed").into())
            }
        }
    }

    fn note_heard(&self) {
        *self.heard.lock().unwrap_or_else(|e| e.into_inner()) = Some(Instant::now());
    }

    fn heard_since(&self, begun: Instant) -> bool {
        let heard = self.heard.lock().unwrap_or_else(|e| e.into_inner());
        heard.is_some_and(|heard| heard >= begun)
    }

    async fn discard(&self, serial: u64) {
        self.kept.lock().await.forget(serial);
    }
}

impl Kept {
    fn forget(&mut self, serial: u64) {
        if self.serial == serial {
            self.stream = None;
        }
    }
}

/// A question on its way. If it is dropped and the connection said nothing at all meanwhile, the
/// other end may be gone without a word: the next question gets a new connection.
struct Waiting<'a> {
    slot: &'a Slot,
    serial: u64,
    begun: Instant,
    is_over: bool,
}

/// Less than this is no sign of anything: the question was cancelled since another upstream was
/// faster.
const SILENCE_MIN: Duration = Duration::from_millis(250);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let is_silent = !self.is_over
            && self.begun.elapsed() >= SILENCE_MIN
            && !self.slot.heard_since(self.begun);
        if is_silent && let Ok(mut kept) = self.slot.kept.try_lock() {
            kept.forget(self.serial);
        }
    }
}

/// How a connection is made.
struct Dial {
    upstream: Upstream,
    tls: Option<Arc<ClientConfig>>,
    /// Owns the tasks that drive the connections (hickory-net 0.26 ends them with it).
    provider: TokioRuntimeProvider,
}

impl Dial {
    async fn connect(&self) -> Result<Stream, AskError> {
        let addr = self.upstream.addr;
        Ok(match self.upstream.protocol {
            Protocol::Udp | Protocol::Tcp => self.tcp(addr).await?,
            Protocol::Tls => self.tls(addr).await?,
            Protocol::Https => self.https(addr).await?,
        })
    }

    async fn tcp(&self, addr: SocketAddr) -> Result<Stream, NetError> {
        let provider = self.provider.clone();
        TcpClientStream::exchange(addr, None, HICKORY_TIMEOUT, Some(ACTIVE_MAX), provider).await
    }

    /// Not hickory's `tls_exchange`: that leaves out the name (SNI) by which an upstream with
    /// several certificates chooses.
    async fn tls(&self, addr: SocketAddr) -> Result<Stream, AskError> {
        let name = tls::server_name(&self.upstream).map_err(not_connected)?;
        let config = self.tls_config()?;
        let (connected, sender) = tls_client_connect(addr, name, config, self.provider.clone());
        let multiplexer = DnsMultiplexer::new(connected.await?, sender)
            .with_timeout(HICKORY_TIMEOUT)
            .with_max_active_requests(ACTIVE_MAX);
        let (stream, background) = DnsExchange::from_stream(multiplexer);
        self.provider.create_handle().spawn_bg(background);
        Ok(stream)
    }

    async fn https(&self, addr: SocketAddr) -> Result<Stream, AskError> {
        let name = tls::server_name(&self.upstream).map_err(not_connected)?;
        let mut builder = HttpsClientStream::builder(self.tls_config()?, self.provider.clone());
        builder.request_timeout(HICKORY_TIMEOUT);
        let path = self.upstream.path.as_str();
        Ok(builder
            .exchange(addr, name.to_str().into(), path.into())
            .await?)
    }

    fn tls_config(&self) -> Result<Arc<ClientConfig>, AskError> {
        let config = self.tls.clone();
        config.ok_or_else(|| AskError::NotConnected("TLS is not set up".into()))
    }
}

fn not_connected(error: tls::TlsError) -> AskError {
    AskError::NotConnected(error.to_string())
}
