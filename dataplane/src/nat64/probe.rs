//! The probe of a silent connection (RFC 6146 section 3.5.2.2): when TCP_EST has run out, the IPv6
//! host is asked whether it still has the connection. A host that has answers with an ACK,
//! which brings the session back from TRANS; one that has not answers with an RST, or not at all.

use gate64_wire::addr::TransportAddr6;
use gate64_wire::checksum::{Sum, pseudo_header_v6};
use gate64_wire::facts::tcp_flag;
use gate64_wire::{ipv6, tcp};

use super::table::SessionRef;
use super::{Context, Nat64};
use crate::counters;
use crate::verdict::{Side, Verdict};

const PROBE_LEN: usize = ipv6::HEADER_LEN + tcp::HEADER_LEN;

/// Octets behind the IPv6 header.
const SEGMENT_LEN: u16 = 20;

/// As hosts set it (RFC 1700's default).
const HOP_LIMIT: u8 = 64;

impl Nat64 {
    /// Sends the probe to the session's host. Without a route to it, or where too many leave at
    /// once, none is sent, and the session ends with TCP_TRANS.
    pub(super) fn probe(&mut self, at: SessionRef, context: &Context) {
        let host = self.table.bib(at.bib()).v6();
        let session = self.table.session(at);
        let peer = session.remote();
        let peer = TransportAddr6 {
            ip: self.pref64(session.pref64).embed(peer.ip),
            port: peer.port,
        };
        let Ok(way) = self.way_v6(None, host.ip, context) else {
            return;
        };
        let verdict = Verdict::Forward(Side::V6);
        let posted = self
            .outbox
            .post(PROBE_LEN, verdict, way.hop, |to| write(to, peer, host));
        if posted {
            self.counters.add(counters::tcp_probes(0), 1);
        }
    }
}

/// Writes a segment from `src` to `dst` without data: sequence and acknowledgment number zero, no
/// flag but ACK.
fn write(out: &mut [u8], src: TransportAddr6, dst: TransportAddr6) -> bool {
    let Some((header, segment)) = out.split_first_chunk_mut() else {
        return false;
    };
    let Some(segment) = segment.first_chunk_mut() else {
        return false;
    };
    ipv6::Header {
        traffic_class: 0,
        payload_len: SEGMENT_LEN,
        next_header: tcp::PROTOCOL,
        hop_limit: HOP_LIMIT,
        src: src.ip,
        dst: dst.ip,
    }
    .write(header);
    let mut probe = tcp::Header {
        src_port: src.port,
        dst_port: dst.port,
        sequence: 0,
        acknowledgment: 0,
        len: 20,
        flags: tcp_flag::ACK,
        window: 0,
        checksum: 0,
    };
    probe.write(segment);
    let pseudo = pseudo_header_v6(src.ip, dst.ip, tcp::PROTOCOL, SEGMENT_LEN);
    let sum: Sum = pseudo.bytes(segment);
    probe.checksum = sum.checksum();
    probe.write(segment);
    true
}
