//! One upstream resolver: a question goes out, the message that answers it comes back whole.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::StreamExt;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::tcp::TcpClientStream;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsExchange, DnsRequestSender};
use hickory_net::{DnsHandle, NetError};
use hickory_proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, Edns, Message, MessageType, OpCode, Query,
};
use hickory_proto::rr::{DNSClass, LowerName, Name};
use tokio::sync::Mutex;

use crate::answer::Question;
use crate::config::{Protocol, Upstream};
use crate::metrics::{Metrics, add};

/// The size of UDP answers that crosses every path unfragmented (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD_MAX: u16 = 1232;

/// Questions under way on one TCP connection.
const TCP_ACTIVE_MAX: usize = 256;

/// One upstream and its connection, if it has one.
pub(crate) struct Exchange {
    pub(crate) config: Upstream,
    stream: Mutex<Option<DnsExchange<TokioRuntimeProvider>>>,
    /// Owns the tasks that drive the connections (hickory-net 0.26 ends them with it).
    provider: TokioRuntimeProvider,
}

impl Exchange {
    pub(crate) fn new(config: Upstream) -> Exchange {
        Exchange {
            config,
            stream: Mutex::new(None),
            provider: TokioRuntimeProvider::default(),
        }
    }

    /// Asks once; a truncated answer over UDP is asked for again over TCP (RFC 7766 section 5).
    pub(crate) async fn ask(
        &self,
        question: &Question,
        timeout: Duration,
        metrics: &Metrics,
    ) -> Result<Message, NetError> {
        if self.config.protocol != Protocol::Udp {
            return self.ask_stream(question, timeout, metrics).await;
        }
        let message = ask_udp(self.config.addr, question, timeout, metrics).await?;
        if !message.metadata.truncation {
            return Ok(message);
        }
        add(&metrics.upstream_truncated);
        self.ask_stream(question, timeout, metrics).await
    }

    /// Over the connection kept open, or a new one if the old one was closed meanwhile.
    async fn ask_stream(
        &self,
        question: &Question,
        timeout: Duration,
        metrics: &Metrics,
    ) -> Result<Message, NetError> {
        let asked = tokio::time::timeout(timeout, async {
            let kept = self.stream.lock().await.clone();
            if let Some(stream) = kept
                && let Ok(message) = send(&stream, question, &metrics.upstream_queries).await
            {
                return Ok(message);
            }
            let stream = self.connect(timeout).await?;
            *self.stream.lock().await = Some(stream.clone());
            send(&stream, question, &metrics.upstream_queries).await
        });
        asked.await.unwrap_or(Err(NetError::Timeout))
    }

    async fn connect(
        &self,
        timeout: Duration,
    ) -> Result<DnsExchange<TokioRuntimeProvider>, NetError> {
        TcpClientStream::exchange(
            self.config.addr,
            None,
            timeout,
            Some(TCP_ACTIVE_MAX),
            self.provider.clone(),
        )
        .await
    }
}

/// A socket of its own for each question, so that its port has to be guessed too (RFC 5452).
async fn ask_udp(
    addr: SocketAddr,
    question: &Question,
    timeout: Duration,
    metrics: &Metrics,
) -> Result<Message, NetError> {
    let mut stream = UdpClientStream::builder(addr, TokioRuntimeProvider::default())
        .with_timeout(Some(timeout))
        // The pool decides about further tries.
        .with_max_retries(1)
        .with_os_port_selection(true)
        .build();
    add(&metrics.upstream_queries);
    let response = stream.send_message(request(question)).next().await;
    checked(question, response)
}

async fn send(
    stream: &DnsExchange<TokioRuntimeProvider>,
    question: &Question,
    sent: &AtomicU64,
) -> Result<Message, NetError> {
    add(sent);
    checked(question, stream.send(request(question)).next().await)
}

fn request(question: &Question) -> DnsRequest {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = question.checking_disabled;
    // RFC 6840 section 5.7: a query with AD asks for the AD bit.
    message.metadata.authentic_data = true;
    let name = Name::from(question.name.clone());
    message.add_query(Query::query(name, question.qtype));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_MAX)
        .set_version(0)
        .set_dnssec_ok(question.dnssec_ok);
    message.edns = Some(edns);
    DnsRequest::new(message, DnsRequestOptions::default())
}

/// Only a response to this very question counts, whatever the transport let through.
fn checked(
    question: &Question,
    response: Option<Result<DnsResponse, NetError>>,
) -> Result<Message, NetError> {
    let message = response
        .ok_or(NetError::Message("connection closed"))??
        .into_message();
    let asked = match message.queries.as_slice() {
        [query] => {
            LowerName::new(query.name()) == question.name
                && query.query_type() == question.qtype
                && query.query_class() == DNSClass::IN
        }
        _ => false,
    };
    let metadata = &message.metadata;
    if metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query || !asked
    {
        return Err(NetError::Message("answer to another question"));
    }
    Ok(message)
}
