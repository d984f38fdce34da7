//! "Fragmented ICMP/ICMPv6 packets will not be translated": true of errors. Echoes are gathered by
//! the stateful translator (see rfc6146/section_3_4_fragments.rs), so the check lets them pass.

use gate64_dataplane::siit;
use gate64_dataplane::verdict::{DropReason, Refusal};
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts};

use crate::judge::*;

const DROPPED: Result<(), Refusal> = Err(Refusal::Drop(DropReason::IcmpUntranslatable));

#[test]
fn first_and_later_fragments_over_ipv6() {
    let error = icmp_v6(1, 0, [0; 4], &[0; 48]);
    for (offset, expected) in [(1, DROPPED), (185 << 3, Ok(())), (0, Ok(()))] {
        let offset: [u8; 2] = u16::to_be_bytes(offset);
        let bytes = insert_v6(&error, 44, &[0, 0, offset[0], offset[1], 0, 0, 0, 1]);
        assert_eq!(siit::check_v6(&Ipv6Facts::parse(&bytes).unwrap()), expected);
    }
}

#[test]
fn first_and_later_fragments_over_ipv4() {
    for (offset, expected) in [
        ([0x20, 0], DROPPED),
        ([0, 185], Ok(())),
        ([0x40, 0], Ok(())),
    ] {
        let mut bytes = icmp_v4(3, 0, [0; 4], &[0; 32]);
        bytes[6..8].copy_from_slice(&offset);
        repair_v4(&mut bytes);
        let facts = Ipv4Facts::parse(&bytes).unwrap();
        assert_eq!(siit::check_v4(&facts, &rules()), expected);
    }
}
