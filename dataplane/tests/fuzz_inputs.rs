//! Every input that is kept for the fuzz targets, through the same code: seeds, and crashes that
//! were found and mended.
#![allow(missing_docs)]

#[path = "../fuzz/fuzz_targets/work.rs"]
mod work;

use std::path::Path;

fn every_input(target: &str, work: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/inputs");
    let mut count = 0;
    for file in std::fs::read_dir(folder.join(target)).unwrap() {
        let path = file.unwrap().path();
        println!("{}", path.display());
        work(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count >= 10, "only {count} inputs");
}

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
