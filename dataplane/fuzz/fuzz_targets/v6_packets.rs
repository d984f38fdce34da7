//! One packet from IPv6 through a gateway that has sessions for it.
#![no_main]

mod common;

use common::support::Outcome;
use gate64_dataplane::verdict::Side;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&flags, rest)) = input.split_first() else {
        return;
    };
    common::with_gateway(|gateway, ports| {
        let mut packet = common::packet(rest, &common::templates_v6(ports));
        if flags & 1 == 0 {
            common::repair_v6(&mut packet);
        }
        if let Outcome::HandedOff(..) = gateway.put(Side::V6, &packet) {
            panic!("there is one worker");
        }
        gateway.outgoing();
        gateway.nat64.check_invariants();
    });
});
