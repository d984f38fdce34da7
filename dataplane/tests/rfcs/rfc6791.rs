//! RFC 6791: the IPv4 source of ICMP errors from IPv6 hops that have no IPv4 address.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::packets::{judged, udp4};
use crate::support::{Gateway, POOL, SERVER, config, embedded};
use crate::{ROUTER6, error6, mapped_udp};

/// What the IPv4 peer gets of an error from a router on the way to the client.
fn from_a_hop(source_v4: Option<Ipv4Addr>) -> (IpAddr, IpAddr) {
    let mut config = config();
    config.source_v4 = source_v4;
    let mut gateway = Gateway::new(config);
    let port = mapped_udp(&mut gateway, (crate::support::HOST, 5000), (SERVER, 53)).1;
    let received = gateway.v4(&udp4((SERVER, 53), (POOL, port), b"answer"));
    let error = gateway.v6(&error6(ROUTER6, embedded(SERVER), (3, 0), &received));
    assert_eq!((error[20], error[21]), (11, 0));
    let (src, dst, _, _, _) = judged(&error);
    (src, dst)
}

#[test]
fn section_3_2_the_configured_address() {
    let own = Ipv4Addr::new(203, 0, 113, 5);
    let (src, dst) = from_a_hop(Some(own));
    assert_eq!((src, dst), (IpAddr::V4(own), IpAddr::V4(SERVER)));
}

#[test]
fn section_3_2_or_the_address_that_the_client_appears_as() {
    assert_eq!(from_a_hop(None).0, IpAddr::V4(POOL));
}
