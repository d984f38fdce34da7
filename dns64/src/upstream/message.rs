//! The query that goes to an upstream, and what its response has to be.

use hickory_proto::op::{
    DnsRequest, DnsRequestOptions, Edns, Message, MessageType, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{DNSClass, LowerName, Name, RecordType};

use super::{AskError, UDP_PAYLOAD_MAX};
use crate::answer::Question;

/// Room for the header, the longest name, its type and class, and an OPT record.
const QUERY_OCTETS_MAX: usize = 12 + 255 + 4 + 11;

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

/// The same as octets (RFC 1035 section 4.1, RFC 6891 section 6.1.2).
pub(super) fn query_octets(question: &Question) -> Vec<u8> {
    const RECURSION_DESIRED: u8 = 0x01;
    const AUTHENTIC_DATA: u8 = 0x20;
    const CHECKING_DISABLED: u8 = 0x10;
    const DNSSEC_OK: u8 = 0x80;
    let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    let [id_high, id_low] = rand::random::<u16>().to_be_bytes();
    let flags = AUTHENTIC_DATA | flag(question.checking_disabled, CHECKING_DISABLED);
    let mut octets = Vec::with_capacity(QUERY_OCTETS_MAX);
    octets.extend([id_high, id_low, RECURSION_DESIRED, flags]);
    // One question, one additional record.
    octets.extend([0, 1, 0, 0, 0, 0, 0, 1]);
    for label in question.name.iter() {
        // A label has at most 63 octets (RFC 1035 section 2.3.4).
        octets.push(u8::try_from(label.len()).unwrap_or(0));
        octets.extend_from_slice(label);
    }
    octets.push(0);
    octets.extend(u16::from(question.qtype).to_be_bytes());
    octets.extend(u16::from(DNSClass::IN).to_be_bytes());
    octets.push(0);
    octets.extend(u16::from(RecordType::OPT).to_be_bytes());
    octets.extend(UDP_PAYLOAD_MAX.to_be_bytes());
    octets.extend([0, 0, flag(question.dnssec_ok, DNSSEC_OK), 0, 0, 0]);
    octets
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

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn a_query_as_octets_is_the_query() {
        let long = "a".repeat(63) + "." + &"b.".repeat(95);
        for name in [".", "test.", "www.example.test.", &long] {
            for (dnssec_ok, checking_disabled) in [(false, false), (true, false), (false, true)] {
                let question = Question {
                    name: LowerName::new(&Name::from_str(name).unwrap()),
                    qtype: RecordType::AAAA,
                    dnssec_ok,
                    checking_disabled,
                };
                let mut octets = query_octets(&question);
                let mut expected = query(&question).to_vec().unwrap();
                octets[..2].fill(0);
                expected[..2].fill(0);
                assert_eq!(octets, expected, "{name}");
            }
        }
    }
}
