//! Fragments of a translated packet that is too large for IPv6 and came without DF.

use gate64_wire::facts::FragmentFacts;
use gate64_wire::ipv6::{self, FRAGMENT_HEADER_LEN, FragmentHeader, HEADER_LEN};

const HEADERS_LEN: usize = HEADER_LEN + FRAGMENT_HEADER_LEN;

/// One fragment, to be copied into a frame of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentV6<'a> {
    headers: [u8; HEADERS_LEN],
    payload: &'a [u8],
}

impl FragmentV6<'_> {
    /// Octets of the fragment.
    #[allow(clippy::len_without_is_empty)] // it has headers
    pub fn len(&self) -> usize {
        HEADERS_LEN + self.payload.len()
    }

    /// Copies the fragment to the front of `out`. False, and nothing done, if that is too small.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> bool {
        let Some(out) = out.get_mut(..self.len()) else {
            return false;
        };
        out[..HEADERS_LEN].copy_from_slice(&self.headers);
        out[HEADERS_LEN..].copy_from_slice(self.payload);
        true
    }
}

/// The fragments, in order, of an IPv6 packet that [`super::v4_to_v6`] made, each of at most
/// `mtu` octets (RFC 7915 section 4.1). A packet that is a fragment already is cut further. The
/// identification of one that is not is the IPv4 packet's (`ipv4_id`).
pub fn fragments_v6(packet: &[u8], ipv4_id: u16, mtu: u16) -> impl Iterator<Item = FragmentV6<'_>> {
    let (unfragmentable, whole, payload) = take_apart(packet, ipv4_id);
    // Every fragment but the last carries a multiple of 8 octets (RFC 8200 section 4.5).
    let step = (usize::from(mtu).saturating_sub(HEADERS_LEN) & !7).max(8);
    let count = payload.len().div_ceil(step);
    payload
        .chunks(step)
        .enumerate()
        .map(move |(index, payload)| {
            let is_last = index + 1 == count;
            let fragment = FragmentFacts {
                offset: whole
                    .fragment
                    .offset
                    .saturating_add(u16::try_from(index * step).unwrap_or(u16::MAX)),
                more: whole.fragment.more || !is_last,
                id: whole.fragment.id,
            };
            let mut headers = [0; HEADERS_LEN];
            headers[..HEADER_LEN].copy_from_slice(&unfragmentable);
            let payload_len =
                u16::try_from(FRAGMENT_HEADER_LEN + payload.len()).unwrap_or(u16::MAX);
            headers[4..6].copy_from_slice(&payload_len.to_be_bytes());
            headers[6] = ipv6::FRAGMENT;
            let header = FragmentHeader { fragment, ..whole };
            if let Some(out) = headers[HEADER_LEN..].first_chunk_mut() {
                header.write(out);
            }
            FragmentV6 { headers, payload }
        })
}

/// The IPv6 header, the fragment header that the packet has or would have as one fragment, and
/// what is to be cut. Octets that are no IPv6 packet have no fragments.
fn take_apart(packet: &[u8], ipv4_id: u16) -> ([u8; HEADER_LEN], FragmentHeader, &[u8]) {
    let Some((header, payload)) = packet.split_first_chunk::<HEADER_LEN>() else {
        return ([0; HEADER_LEN], atomic(0, ipv4_id), &[]);
    };
    match FragmentHeader::parse(payload) {
        Some(fragment) if header[6] == ipv6::FRAGMENT => {
            (*header, fragment, &payload[FRAGMENT_HEADER_LEN..])
        }
        _ => (*header, atomic(header[6], ipv4_id), payload),
    }
}

/// Section 4.1: the identification's low-order 16 bits are the IPv4 header's, the others zero.
fn atomic(next_header: u8, ipv4_id: u16) -> FragmentHeader {
    FragmentHeader {
        next_header,
        fragment: FragmentFacts {
            offset: 0,
            more: false,
            id: u32::from(ipv4_id),
        },
    }
}
