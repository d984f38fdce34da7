//! Fragments of a few packets, from both sides and turning around.
#![no_main]

mod work;

libfuzzer_sys::fuzz_target!(|input: &[u8]| work::fragments(input));
