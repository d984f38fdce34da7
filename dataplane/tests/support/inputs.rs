//! The inputs that are kept for fuzz targets. The tests of `dns64` have this file as well.

use std::path::Path;

/// Does the work with every input kept for the target: seeds, and crashes that were found and
/// mended. The folder is that of the package whose test this is.
pub fn every_input(target: &str, work: fn(&[u8])) {
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
