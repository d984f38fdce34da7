//! Section 3.5: address-dependent filtering, also of hairpinned packets.

use std::net::{IpAddr, Ipv4Addr};

use gate64_dataplane::config::Filtering;
use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};

use crate::support::packets::{judged, udp4, udp6};
use crate::support::{GATEWAY4, Gateway, HOST, OTHER, POOL, SERVER, config, embedded};

fn gateway() -> Gateway {
    let mut config = config();
    config.filtering = Filtering::AddressDependent;
    Gateway::new(config)
}

#[test]
fn a_known_address_may_answer_from_any_port_another_may_not() {
    let mut gateway = gateway();
    let open = udp6((HOST, 5000), (embedded(SERVER), 53), b"open");
    let port = judged(&gateway.v6(&open)).2;
    judged(&gateway.v4(&udp4((SERVER, 9999), (POOL, port), b"other port")));
    let stranger = Ipv4Addr::new(198, 51, 100, 99);
    let packet = udp4((stranger, 53), (POOL, port), b"unasked");
    let answer = gateway.put(Side::V4, &packet).sent(Side::V4);
    let (_, dst, _, _, quoted) = judged(&answer);
    assert_eq!((dst, answer[20], answer[21]), (IpAddr::V4(stranger), 3, 13));
    assert_eq!(quoted, packet);
    assert_eq!(gateway.drops(Side::V4, DropReason::Filtered), 1);
    gateway.nat64.check_invariants();
}

/// RFC 5508 REQ-7: the answer to a hairpinned packet turns around as well.
#[test]
fn a_filtered_hairpin_is_answered_on_the_ipv6_side() {
    let mut gateway = gateway();
    let open = udp6((OTHER, 6000), (embedded(SERVER), 1), b"open");
    let target = judged(&gateway.v6(&open)).2;
    let packet = udp6((HOST, 5000), (embedded(POOL), target), b"unasked");
    let answer = gateway.put(Side::V6, &packet).sent(Side::V6);
    let (src, dst, _, _, _) = judged(&answer);
    assert_eq!(
        (src, dst),
        (IpAddr::V6(embedded(GATEWAY4)), IpAddr::V6(HOST))
    );
    assert_eq!((answer[40], answer[41]), (1, 1));
    assert_eq!(gateway.drops(Side::V4, DropReason::Filtered), 1);
    assert_eq!(gateway.count(counters::icmp_errors_generated(1)), 1);
}
