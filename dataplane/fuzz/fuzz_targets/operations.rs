//! A sequence of packets, fragments, errors, time and clearing, eight octets each.
#![no_main]

#[allow(dead_code)] // each target uses its part
mod work;

libfuzzer_sys::fuzz_target!(|input: &[u8]| work::operations(input));
