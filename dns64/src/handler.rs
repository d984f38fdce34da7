//! A DNS message in, a DNS message out: hickory's handler around the resolver.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_net::runtime::Time;
use hickory_net::{NetError, xfer};
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::BinDecoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};

use crate::answer::{Answer, ExtendedError, ExtendedErrorCode, Question};
use crate::client_limits::{Rate, RateLimit, Waiting, Waits};
use crate::clock::Clock;
use crate::config::{Limits, Protocol};
use crate::metrics::{Outcome, QueryType};
use crate::request::is_name_compressed;
use crate::resolver::Kept;
use crate::responder::{ClientQuestion, Responder};
use crate::trace::Trace;
use crate::upstream::UDP_PAYLOAD_MAX;

/// What all listeners share; a reload puts another responder in.
pub(crate) struct Handler {
    pub(crate) responder: ArcSwap<Responder>,
    /// Raised when another responder is there: what was answered before is asked again.
    pub(crate) generation: AtomicU32,
    pub(crate) kept: Arc<Kept>,
    pub(crate) clock: Clock,
    rate_limit: RateLimit,
    waiting: Arc<Waiting>,
    client_in_flight_max: u64,
    network_in_flight_max: u32,
}

/// A client that waits for an answer; it is counted as long as this lives.
pub(crate) struct Admitted {
    kept: Arc<Kept>,
    _waits: Waits,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let gauge = &self.kept.metrics.client_in_flight;
        gauge.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer with all that its message needs beside the question.
pub(crate) struct Handled {
    pub(crate) answer: Answer,
    pub(crate) metadata: Metadata,
    pub(crate) edns: Option<Edns>,
    pub(crate) qtype: QueryType,
    pub(crate) outcome: Outcome,
}

impl Handler {
    pub(crate) fn new(
        responder: Responder,
        kept: Arc<Kept>,
        clock: Clock,
        limits: &Limits,
    ) -> Handler {
        Handler {
            responder: ArcSwap::from_pointee(responder),
            generation: AtomicU32::new(0),
            kept,
            clock,
            rate_limit: RateLimit::new(),
            waiting: Arc::new(Waiting::new()),
            client_in_flight_max: limits.client_in_flight_max,
            network_in_flight_max: limits.network_in_flight_max,
        }
    }

    /// Puts another responder in the place of the old one.
    pub(crate) fn replace(&self, responder: Responder) {
        self.responder.store(Arc::new(responder));
        // Behind the store: who reads the new number answers by the new responder.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether an answer to this client is within the rate that its network may have.
    pub(crate) fn judge(&self, responder: &Responder, client: IpAddr, now: Duration) -> Rate {
        responder.response_rate.map_or(Rate::Within, |rate| {
            self.rate_limit.judge(rate, client, now)
        })
    }

    /// Lets one more client wait, unless too many do.
    pub(crate) fn admit(&self, client: IpAddr) -> Option<Admitted> {
        let waits = self.waiting.admit(client, self.network_in_flight_max)?;
        let gauge = &self.kept.metrics.client_in_flight;
        let before = gauge.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted {
            kept: self.kept.clone(),
            _waits: waits,
        };
        (before < self.client_in_flight_max).then_some(admitted)
    }

    /// Answers, counts the answer and its time.
    pub(crate) async fn handle(&self, request: &Request) -> Handled {
        let begun = Instant::now();
        let responder = self.responder.load_full();
        let (answer, outcome) = match accept(&responder, request) {
            Ok(question) => responder.answer(question, &mut Trace::default()).await,
            Err(refused) => refused,
        };
        let handled = self.handled(request, answer, outcome);
        self.kept.metrics.observe(begun.elapsed());
        handled
    }

    /// The same, unless too many clients wait.
    pub(crate) async fn handle_admitted(&self, request: &Request) -> Handled {
        match self.admit(request.src().ip()) {
            Some(_admitted) => self.handle(request).await,
            None => self.overloaded(request),
        }
    }

    /// Counts octets that are no request.
    pub(crate) fn count_unreadable(&self, protocol: Protocol) {
        let metrics = &self.kept.metrics;
        metrics.count(protocol, QueryType::Other, Outcome::FormErr);
    }

    fn overloaded(&self, request: &Request) -> Handled {
        let text = "too many clients are waiting";
        let answer = Answer::failure(ExtendedErrorCode::Other, text);
        self.handled(request, answer, Outcome::Overload)
    }

    /// The answer, counted.
    fn handled(&self, request: &Request, answer: Answer, outcome: Outcome) -> Handled {
        let handled = Handled::new(request, answer, outcome);
        let metrics = &self.kept.metrics;
        metrics.count(protocol(request), handled.qtype, outcome);
        if handled.edns.is_some() {
            for error in &handled.answer.extended_errors {
                metrics.count_extended_error(error.code);
            }
        }
        handled
    }
}

impl Handled {
    fn new(request: &Request, answer: Answer, outcome: Outcome) -> Handled {
        Handled {
            metadata: response_metadata(request, &answer),
            edns: response_edns(request, &answer),
            qtype: query_type(request),
            outcome,
            answer,
        }
    }
}

/// The handler behind TCP and TLS, where hickory reads and writes the messages.
pub(crate) struct Streams(pub(crate) Arc<Handler>);

#[async_trait::async_trait]
impl RequestHandler for Streams {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        if is_name_compressed(request.as_slice()) {
            self.0.count_unreadable(protocol(request));
            return without_question(request, handle).await;
        }
        let handled = self.0.handle_admitted(request).await;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &handled.edns {
            builder.edns(edns);
        }
        let answer = &handled.answer;
        let response = builder.build(
            handled.metadata,
            &answer.answers,
            &answer.authorities,
            &[],
            &answer.additionals,
        );
        sent(request, handle.send_response(response).await)
    }
}

/// FORMERR to a question that cannot be repeated.
async fn without_question(request: &Request, mut handle: impl ResponseHandler) -> ResponseInfo {
    let Ok(none) = Queries::read(&mut BinDecoder::new(&[]), 0) else {
        return not_sent(request);
    };
    let builder = MessageResponseBuilder::new(&none, None);
    let response = builder.error_msg(&request.metadata, ResponseCode::FormErr);
    sent(request, handle.send_response(response).await)
}

fn sent(request: &Request, result: Result<ResponseInfo, NetError>) -> ResponseInfo {
    result.unwrap_or_else(|error| {
        tracing::debug!(client = %request.src(), %error, "answer not sent");
        not_sent(request)
    })
}

/// The question, or the answer to a request that is not looked up.
fn accept(responder: &Responder, request: &Request) -> Result<ClientQuestion, (Answer, Outcome)> {
    let Some(class) = responder.clients.class(request.src().ip()) else {
        let error = ExtendedError::new(ExtendedErrorCode::Prohibited, "client network not served");
        return Err(refuse(ResponseCode::Refused, Some(error)));
    };
    if request.metadata.op_code != OpCode::Query {
        return Err(refuse(ResponseCode::NotImp, None));
    }
    // RFC 6891 section 6.1.3.
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(refuse(ResponseCode::BADVERS, None));
    }
    let Ok(info) = request.request_info() else {
        return Err(refuse(ResponseCode::FormErr, None));
    };
    let qtype = info.query.query_type();
    match qtype {
        RecordType::AXFR | RecordType::IXFR => return Err(refuse(ResponseCode::Refused, None)),
        RecordType::OPT | RecordType::TSIG | RecordType::ZERO => {
            return Err(refuse(ResponseCode::FormErr, None));
        }
        _ => {}
    }
    // RFC 6147 section 5.1: synthesis is for class IN; this server forwards no other.
    if info.query.query_class() != DNSClass::IN {
        return Err(refuse(ResponseCode::Refused, None));
    }
    if !request.metadata.recursion_desired {
        let error = ExtendedError::new(ExtendedErrorCode::NotAuthoritative, "recursion not asked");
        return Err(refuse(ResponseCode::Refused, Some(error)));
    }
    Ok(ClientQuestion {
        question: Question {
            name: info.query.name().clone(),
            qtype,
            dnssec_ok: dnssec_ok(request),
            checking_disabled: request.metadata.checking_disabled,
        },
        class,
    })
}

fn refuse(rcode: ResponseCode, error: Option<ExtendedError>) -> (Answer, Outcome) {
    let outcome = match rcode {
        ResponseCode::Refused => Outcome::Refused,
        _ => Outcome::FormErr,
    };
    let answer = Answer {
        extended_errors: error.into_iter().collect(),
        ..Answer::empty(rcode)
    };
    (answer, outcome)
}

fn dnssec_ok(request: &Request) -> bool {
    let edns = request.edns.as_ref();
    edns.is_some_and(|edns| edns.flags().dnssec_ok)
}

fn response_metadata(request: &Request, answer: &Answer) -> Metadata {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.recursion_available = true;
    metadata.response_code = answer.rcode;
    // RFC 6840 section 5.8: AD only for those who can make something of it.
    metadata.authentic_data =
        answer.authentic && (dnssec_ok(request) || request.metadata.authentic_data);
    metadata
}

/// Says what this server takes (RFC 6891 section 6.2.3); no OPT record for a client that sent
/// none (section 7).
fn response_edns(request: &Request, answer: &Answer) -> Option<Edns> {
    let asked = request.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_MAX)
        .set_version(0)
        .set_dnssec_ok(asked.flags().dnssec_ok)
        .set_rcode_high(answer.rcode.high());
    for error in &answer.extended_errors {
        edns.options_mut().insert(error.to_option());
    }
    Some(edns)
}

fn protocol(request: &Request) -> Protocol {
    match request.protocol() {
        xfer::Protocol::Udp => Protocol::Udp,
        xfer::Protocol::Tls => Protocol::Tls,
        xfer::Protocol::Https => Protocol::Https,
        _ => Protocol::Tcp,
    }
}

fn query_type(request: &Request) -> QueryType {
    match request.request_info() {
        Ok(info) => info.query.query_type().into(),
        Err(_) => QueryType::Other,
    }
}

fn not_sent(request: &Request) -> ResponseInfo {
    let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
    metadata.response_code = ResponseCode::ServFail;
    let counts = HeaderCounts::default();
    Header { metadata, counts }.into()
}
