//! Generated ICMP errors: none panics, a refused one is intact, a translated one has a right
//! length and checksum and keeps to the size limit.

use gate64_dataplane::siit::{self, NextHopMtu};
use gate64_wire::addr::Protocol;
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts};
use gate64_wire::inner::{InnerIpv4, InnerIpv6};
use proptest::prelude::*;

use crate::judge::*;

/// An inner packet with some octets changed, cut or padded, and octets behind it.
fn body(packet: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((0..packet.len(), any::<u8>()), 0..4);
    let behind = prop::collection::vec(any::<u8>(), 0..400);
    (changes, 0..2000usize, behind).prop_map(move |(changes, len, behind)| {
        let mut bytes = packet.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.resize(len, 0);
        bytes.extend(behind);
        bytes
    })
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

proptest! {
    #[test]
    fn from_ipv4(
        body in body(sent_udp_v4(&[7; 1000])),
        icmp_type in prop::sample::select(vec![3u8, 11, 12]), code in 0u8..18,
        rest in any::<[u8; 4]>(), protocol in protocols(), mtu in any::<(u16, u16)>(),
    ) {
        let bytes = icmp_v4(icmp_type, code, rest, &body);
        let facts = Ipv4Facts::parse(&bytes).unwrap();
        prop_assume!(InnerIpv4::parse(&bytes, &facts).is_ok());
        let (result, out) = error_to_v6(&bytes, protocol, NextHopMtu { v6: mtu.0, v4: mtu.1 });
        if result.is_ok() {
            judge(&out);
            prop_assert!(out.len() <= 1280);
            prop_assert!(Ipv6Facts::parse(&out).is_ok());
        } else {
            prop_assert_eq!(out, bytes);
        }
    }

    #[test]
    fn from_ipv6(
        body in body(sent_udp_v6(&[7; 1000])),
        icmp_type in 1u8..5, code in 0u8..8,
        rest in any::<[u8; 4]>(), protocol in protocols(), mtu in any::<(u16, u16)>(),
    ) {
        let bytes = icmp_v6(icmp_type, code, rest, &body);
        let facts = Ipv6Facts::parse(&bytes).unwrap();
        prop_assume!(InnerIpv6::parse(&bytes, &facts).is_ok());
        let (result, out) = error_to_v4(&bytes, protocol, NextHopMtu { v6: mtu.0, v4: mtu.1 });
        if result.is_ok() {
            judge(&out);
            prop_assert!(out.len() <= 1280);
            prop_assert!(Ipv4Facts::parse(&out).is_ok());
        } else {
            prop_assert_eq!(out, bytes);
        }
    }

    /// There and back is the same datagram, two hops later.
    #[test]
    fn there_and_back(payload in prop::collection::vec(any::<u8>(), 0..1400)) {
        let sent = udp_v6(&payload);
        let over_v4 = to_v4(&sent, Protocol::Udp, &rules());
        judge(&over_v4);
        let facts = Ipv4Facts::parse(&over_v4).unwrap();
        let (v6, v4) = tuples(Protocol::Udp);
        let delta = siit::l4_delta(&v6, &v4).reverse();
        let (_, back) = in_chunk(&over_v4, |packet| {
            siit::v4_to_v6(packet, &facts, &v6, delta, &rules());
        });
        prop_assert_eq!(back[7], sent[7] - 2);
        prop_assert_eq!(&back[8..], &sent[8..]);
    }
}
