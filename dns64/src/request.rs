//! What of a client's octets is a question that can be answered.

use std::net::SocketAddr;

use hickory_net::xfer::Protocol;
use hickory_proto::op::MessageType;
use hickory_server::server::Request;

/// Octets of the header (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;

/// The request in these octets; nothing if they are a response, which must never be answered, or
/// no message that can be read and repeated.
pub(crate) fn read(octets: Vec<u8>, client: SocketAddr, protocol: Protocol) -> Option<Request> {
    if is_name_compressed(&octets) {
        return None;
    }
    let request = Request::from_bytes(octets, client, protocol).ok()?;
    (request.metadata.message_type == MessageType::Query).then_some(request)
}

/// Whether the name asked for has a pointer (RFC 1035 section 4.1.4). Nothing but the header is
/// before it to point to, whose bits are others in the answer, which repeats the question.
pub(crate) fn is_name_compressed(octets: &[u8]) -> bool {
    let mut at = HEADER;
    while let Some(&len) = octets.get(at) {
        match len {
            0 => return false,
            0xc0.. => return true,
            _ => at += 1 + usize::from(len),
        }
    }
    false
}
