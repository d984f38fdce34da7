//! Every input that is kept for the fuzz targets, through the same code: seeds, and crashes that
//! were found and mended.
#![allow(missing_docs)]

#[path = "support/inputs.rs"]
mod inputs;
#[path = "../fuzz/fuzz_targets/work.rs"]
mod work;

use inputs::every_input;

#[test]
fn v6_packets() {
    every_input("v6_packets", work::v6_packets);
}

#[test]
fn v4_packets() {
    every_input("v4_packets", work::v4_packets);
}

#[test]
fn inner_packets() {
    every_input("inner_packets", work::inner_packets);
}

#[test]
fn fragments() {
    every_input("fragments", work::fragments);
}

#[test]
fn operations() {
    every_input("operations", work::operations);
}
