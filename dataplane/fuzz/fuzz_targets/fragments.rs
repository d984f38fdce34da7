//! Fragments of a few packets, from both sides and turning around.
#![no_main]

#[allow(dead_code)] // each target uses its part
mod work;

libfuzzer_sys::fuzz_target!(|input: &[u8]| work::fragments(input));
