//! Upstream resolvers: a question goes out, the message that answers it comes back whole.
//!
//! [`Pool`] decides who is asked, when and how often; [`Exchange`] asks one of them over its
//! transport; [`Health`](health::Health) remembers how it went.

mod health;
mod message;
mod pool;
mod recursive;
mod stream;
mod tls;
#[allow(unsafe_code)] // how tokio is told of a socket that is not its own
mod udp;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_net::NetError;
use hickory_proto::op::Message;
use rustls::ClientConfig;

use crate::answer::Question;
use crate::config::{Protocol, Upstream};
use crate::metrics::{Metrics, add};

pub(crate) use pool::Pool;
pub use pool::{TryResult, UpstreamState};
pub(crate) use recursive::Recursion;
pub use tls::{TlsError, check_certificates, server_name};

/// The size of UDP answers that crosses every path unfragmented (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD_MAX: u16 = 1232;

/// Why one try at an upstream gave no message.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AskError {
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Socket(Arc<io::Error>),
    #[error("an answer that cannot be read: {0}")]
    Unreadable(String),
    #[error("an answer to another question")]
    OtherQuestion,
    #[error("no connection: {0}")]
    NotConnected(String),
    #[error("{0}")]
    Net(#[from] NetError),
    #[error("too many questions are there already")]
    Busy,
}

impl AskError {
    /// Whether this process had no room for the question, which says nothing against the upstream:
    /// too many are under way, or there is no file descriptor left.
    fn is_ours(&self) -> bool {
        match self {
            AskError::Busy => true,
            AskError::Socket(error) => {
                matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
            }
            _ => false,
        }
    }
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> AskError {
        AskError::Socket(Arc::new(error))
    }
}

/// A try that gave no message.
pub(crate) struct Failed {
    pub(crate) error: AskError,
    /// When the upstream said something nonetheless: that this question has no usable answer
    /// says nothing against it, or whoever owns a domain could take it away from everyone.
    pub(crate) heard_after: Option<Duration>,
}

/// One upstream, with its sockets and its connections, if it has any.
pub(crate) struct Exchange {
    pub(crate) config: Upstream,
    sockets: udp::Sockets,
    connections: stream::Connections,
}

impl Exchange {
    /// `tls` is there if the transport needs it.
    fn new(config: Upstream, tls: Option<Arc<ClientConfig>>) -> Exchange {
        Exchange {
            sockets: udp::Sockets::new(config.addr),
            connections: stream::Connections::new(config.clone(), tls),
            config,
        }
    }

    /// Asks once. What UDP cannot settle, because the answer is truncated (RFC 7766 section 5) or
    /// somebody seems to guess answers (RFC 5452 section 9.3), is asked for again over TCP.
    async fn ask(
        &self,
        question: &Question,
        timeout: Duration,
        metrics: &Metrics,
    ) -> Result<Message, Failed> {
        let begun = Instant::now();
        let mut heard_after = None;
        let asked = tokio::time::timeout(timeout, async {
            add(&metrics.upstream_queries);
            if self.config.protocol == Protocol::Udp {
                match self.sockets.ask(question, metrics).await? {
                    udp::Outcome::Answer(message) => return Ok(message),
                    udp::Outcome::Truncated => {
                        add(&metrics.upstream_truncated);
                        heard_after = Some(begun.elapsed());
                    }
                    udp::Outcome::Suspect => {}
                }
                add(&metrics.upstream_queries);
            }
            self.connections.ask(question).await
        });
        let error = match asked.await {
            Ok(Ok(message)) => return Ok(message),
            Ok(Err(error)) => error,
            Err(_) => AskError::Timeout,
        };
        if matches!(error, AskError::Unreadable(_) | AskError::OtherQuestion) {
            heard_after = Some(begun.elapsed());
        }
        Err(Failed { error, heard_after })
    }
}
