//! The session that a packet from IPv6 belongs to, and what translation changes in its checksum.

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::checksum::Delta;

use super::table::SessionRef;
use super::tuples::peer_port;
use super::{Nat64, PreparedV6};
use crate::siit;

/// What a lookup from IPv6 found: nothing, a BIB entry, or a session with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub bib: Option<u32>,
    pub session: Option<SessionRef>,
}

impl Nat64 {
    #[inline]
    pub(super) fn find_v6(&self, one: &PreparedV6) -> Found {
        let facts = &one.facts;
        let bib = self
            .table
            .find_v6(one.probe, facts.src, facts.l4.src_port, one.protocol);
        let remote_port = peer_port(one.protocol, facts.l4.dst_port);
        let session = bib.and_then(|bib| self.table.find_session(bib, one.remote, remote_port));
        Found { bib, session }
    }

    /// What translation changes in the layer 4 checksum of a session's packets from IPv6.
    pub(super) fn delta(
        &self,
        v6: TransportAddr6,
        v4: TransportAddr4,
        remote: TransportAddr4,
        pref64: u8,
        protocol: Protocol,
    ) -> Delta {
        let tuple6 = Tuple6 {
            src: v6,
            dst: TransportAddr6 {
                ip: self.pref64(pref64).embed(remote.ip),
                port: remote.port,
            },
            protocol,
        };
        siit::l4_delta(
            &tuple6,
            &Tuple4 {
                src: v4,
                dst: remote,
                protocol,
            },
        )
    }
}
