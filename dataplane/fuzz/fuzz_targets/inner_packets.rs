//! ICMP errors about packets that gate64 did send, changed on the way.
#![no_main]

#[allow(dead_code)] // each target uses its part
mod work;

libfuzzer_sys::fuzz_target!(|input: &[u8]| work::inner_packets(input));
