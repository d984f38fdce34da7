//! An answer as octets of a message: whole if it fits, else what the RFCs let go first.

use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::handler::Handled;
use crate::upstream::UDP_PAYLOAD_MAX;

/// The least UDP payload size that counts (RFC 6891 section 6.2.3).
const UDP_PAYLOAD_MIN: u16 = 512;

/// The largest message that the client takes.
pub(crate) fn payload_max(request: &Request) -> u16 {
    let asked = request.edns.as_ref().map(|edns| edns.max_payload());
    asked.unwrap_or(0).max(UDP_PAYLOAD_MIN)
}

/// The message, of at most so many octets and no more than crosses every path. The OPT record
/// stays in any case, with what it says about the answer.
pub(crate) fn message(request: &Request, handled: &Handled, payload_max: u16) -> Option<Vec<u8>> {
    let size_max = payload_max.min(UDP_PAYLOAD_MAX);
    let answer = &handled.answer;
    let whole = [&*answer.answers, &answer.authorities, &answer.additionals];
    // RFC 2181 section 9: additional records that do not fit are left out without TC.
    let without_additionals = [&*answer.answers, &answer.authorities, &[]];
    for sections in [whole, without_additionals] {
        let (octets, is_cut) = encode(request, handled, sections, false, size_max)?;
        if !is_cut {
            return Some(octets);
        }
    }
    // RFC 6891 section 7: a truncated answer has its OPT record; no record beside it is of use.
    let (octets, _) = encode(request, handled, [&[]; 3], true, size_max)?;
    Some(octets)
}

/// The message for a client that takes one of any length.
pub(crate) fn whole_message(request: &Request, handled: &Handled) -> Option<Vec<u8>> {
    let answer = &handled.answer;
    let whole = [&*answer.answers, &answer.authorities, &answer.additionals];
    let (octets, _) = encode(request, handled, whole, false, u16::MAX)?;
    Some(octets)
}

/// The octets, and whether records were left out.
fn encode(
    request: &Request,
    handled: &Handled,
    [answers, authorities, additionals]: [&[Record]; 3],
    truncated: bool,
    size_max: u16,
) -> Option<(Vec<u8>, bool)> {
    let mut octets = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut octets);
    encoder.set_max_size(size_max);
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &handled.edns {
        builder.edns(edns);
    }
    let mut metadata = handled.metadata;
    metadata.truncation = truncated;
    let response = builder.build(metadata, answers, authorities, &[], additionals);
    let info = response.destructive_emit(&mut encoder).ok()?;
    Some((octets, info.truncation))
}
