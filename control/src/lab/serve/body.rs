//! The body of the large download: the same octets everywhere, so that its digest is known.

/// Octets that [`fill`] makes at a time.
pub(in crate::lab) const BLOCK: usize = 64 * 1024;

/// Length of the download that `gate64 lab test` checks.
pub(in crate::lab) const LARGE_LEN: u64 = 100_000_000;

/// Its SHA-256.
pub(in crate::lab) const LARGE_SHA256: &str =
    "7d0e5e6354c83319f90a3eb6ca0b56c5a305c8e8539b9656326f5f897bbde93a";

/// Fills a block with the octets that stand at place `index * BLOCK` of the stream.
pub(in crate::lab) fn fill(block: &mut [u8; BLOCK], index: u64) {
    // xorshift64*: no two blocks are alike, so a lost or repeated one changes the digest.
    let mut x = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for eight in block.as_chunks_mut::<8>().0 {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        *eight = x.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_digest_is_that_of_the_stream() {
        let mut sum = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = sum.stdin.take().unwrap();
        let mut block = [0; BLOCK];
        let (mut index, mut left) = (0, LARGE_LEN);
        while left > 0 {
            fill(&mut block, index);
            let take = usize::try_from(left).unwrap().min(BLOCK);
            input.write_all(&block[..take]).unwrap();
            left -= take as u64;
            index += 1;
        }
        drop(input);
        let output = sum.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.split_whitespace().next(), Some(LARGE_SHA256));
    }
}
