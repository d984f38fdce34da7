//! One packet from IPv4 through a gateway that has sessions for it.
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
        let mut packet = common::packet(rest, &common::templates_v4(ports));
        if flags & 1 == 0 {
            common::repair_v4(&mut packet);
        }
        if let Outcome::HandedOff(..) = gateway.put(Side::V4, &packet) {
            panic!("there is one worker");
        }
        gateway.outgoing();
        gateway.nat64.check_invariants();
    });
});
