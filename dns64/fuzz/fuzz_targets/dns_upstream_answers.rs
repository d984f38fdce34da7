//! One question whose upstream says what the input says.
#![no_main]

#[allow(dead_code)] // each target uses its part
mod work;

libfuzzer_sys::fuzz_target!(|input: &[u8]| work::upstream_answer(input));
