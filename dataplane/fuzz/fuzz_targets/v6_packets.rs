//! One packet from IPv6 through a gateway that has sessions for it.
#![no_main]

#[allow(dead_code)] // each target uses its part
mod work;

libfuzzer_sys::fuzz_target!(|input: &[u8]| work::v6_packets(input));
