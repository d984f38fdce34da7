//! The query that goes to an upstream, and what its response has to be.

use hickory_proto::op::{
    DnsRequest, DnsRequestOptions, Edns, Message, MessageType, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{DNSClass, LowerName, Name};

use super::{AskError, UDP_PAYLOAD_MAX};
use crate::answer::Question;

/// A query with a random id.
pub(super) fn query(question: &Question) -> Message {
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
    message
}

/// The same as hickory's connections take it.
pub(super) fn request(question: &Question) -> DnsRequest {
    DnsRequest::new(query(question), DnsRequestOptions::default())
}

/// Only a response to this very question counts, whatever the transport let through.
pub(super) fn check(question: &Question, message: Message) -> Result<Message, AskError> {
    let asked = match message.queries.as_slice() {
        [query] => {
            LowerName::new(query.name()) == question.name
                && query.query_type() == question.qtype
                && query.query_class() == DNSClass::IN
        }
        // A server that could not read the question, or will not have it, may leave it out.
        [] => !matches!(
            message.metadata.response_code,
            ResponseCode::NoError | ResponseCode::NXDomain
        ),
        _ => false,
    };
    let metadata = &message.metadata;
    let is_response =
        metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query;
    match asked && is_response {
        true => Ok(message),
        false => Err(AskError::OtherQuestion),
    }
}
