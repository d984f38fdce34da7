//! One datagram to a server on loopback that has answers ready.
#![no_main]

#[allow(dead_code)] // each target uses its part
mod work;

libfuzzer_sys::fuzz_target!(|input: &[u8]| work::query_input(input));
