//! One packet from IPv4 through a gateway that has sessions for it.
#![no_main]

mod work;

libfuzzer_sys::fuzz_target!(|input: &[u8]| work::v4_packets(input));
