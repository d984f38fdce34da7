//! A DNS message in, a DNS message out: hickory's handler around the resolver.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use hickory_net::runtime::Time;
use hickory_net::xfer;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::answer::{Answer, ExtendedError, ExtendedErrorCode, Question};
use crate::config::Protocol;
use crate::metrics::{Outcome, QueryType, Raised};
use crate::resolver::Kept;
use crate::responder::{ClientQuestion, Responder};
use crate::trace::Trace;
use crate::upstream::UDP_PAYLOAD_MAX;

/// The least UDP payload size that counts (RFC 6891 section 6.2.3).
const UDP_PAYLOAD_MIN: u16 = 512;

/// What all listeners share; a reload puts another responder in.
pub(crate) struct Handler {
    pub(crate) responder: Arc<ArcSwap<Responder>>,
    pub(crate) kept: Arc<Kept>,
    /// Clients that may wait at one time.
    pub(crate) client_in_flight_max: u64,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        let begun = Instant::now();
        let (answer, outcome) = self.answer(request).await;
        let metrics = &self.kept.metrics;
        metrics.count(protocol(request), query_type(request), outcome);
        metrics.observe(begun.elapsed());

        let edns = response_edns(request, &answer);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(
            response_metadata(request, &answer),
            &answer.answers,
            &answer.authorities,
            &[],
            &answer.additionals,
        );
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(client = %request.src(), %error, "answer not sent");
                not_sent(request)
            }
        }
    }
}

impl Handler {
    async fn answer(&self, request: &Request) -> (Answer, Outcome) {
        let responder = self.responder.load_full();
        let question = match accept(&responder, request) {
            Ok(question) => question,
            Err((answer, outcome)) => return (answer, outcome),
        };
        let metrics = &self.kept.metrics;
        let raised = Raised::new(&metrics.client_in_flight);
        if raised.count > self.client_in_flight_max {
            let text = "too many clients are waiting";
            let answer = Answer::failure(ExtendedErrorCode::Other, text);
            return (answer, Outcome::Overload);
        }
        responder.answer(question, &mut Trace::default()).await
    }
}

/// The question, or the answer to a request that is not looked up.
fn accept(responder: &Responder, request: &Request) -> Result<ClientQuestion, (Answer, Outcome)> {
    if !responder.allows(request.src()) {
        let error = ExtendedError::new(ExtendedErrorCode::Prohibited, "client network not served");
        return Err(refuse(ResponseCode::Refused, Some(error)));
    }
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
        client: request.src().ip(),
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

/// hickory truncates UDP answers at the payload size of the *response*, so the client's size
/// is clamped here. No OPT record for a client that sent none (RFC 6891 section 6.1.1).
fn response_edns(request: &Request, answer: &Answer) -> Option<Edns> {
    let asked = request.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_max_payload(asked.max_payload().clamp(UDP_PAYLOAD_MIN, UDP_PAYLOAD_MAX))
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
