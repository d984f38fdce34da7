//! A journal as a whole: everything that it tells of blocks, in order.

use std::io;
use std::path::Path;

use super::frame::{Entry, FrameKind};
use super::segment::{self, Contents};
use crate::record::{Block, BlockAction};

/// Gives `each` every event of a block with its time in milliseconds since 1970, in the order in
/// which they were written; what segments repeat from those before is left out. Returns how many
/// events the journal says that it lost, with one for each damaged octet.
///
/// # Errors
/// The directory or a segment cannot be read.
pub fn read(directory: &Path, each: &mut dyn FnMut(BlockAction, i64, Block)) -> io::Result<u64> {
    let mut missing = 0;
    for name in segment::list(directory)? {
        let contents = Contents::read(&name.path(directory))?;
        let mut frames = contents.frames();
        for found in frames.by_ref() {
            if found.header.kind != FrameKind::Events {
                continue;
            }
            for entry in found.entries() {
                match entry {
                    Entry::Block(action, at_ms, block) => each(action, at_ms, block),
                    Entry::Lost(_, count) => missing += count,
                }
            }
        }
        missing += frames.damaged() as u64;
    }
    Ok(missing)
}
