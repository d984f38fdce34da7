//! The warning about peers that leave checksums to an offload which never happens.

use gate64_dataplane::verdict::Side;

/// Warns once of each side, at the first packets of that kind.
#[derive(Debug, Default)]
pub(super) struct OffloadWarning {
    told: [bool; 2],
}

impl OffloadWarning {
    /// What to say now; `count`: packets of that side with such a checksum so far.
    pub(super) fn look(&mut self, count: impl Fn(Side) -> u64) -> Vec<String> {
        let mut texts = Vec::new();
        for (side, name) in [(Side::V6, "IPv6"), (Side::V4, "IPv4")] {
            let told = &mut self.told[side.index()];
            if !*told && count(side) > 0 {
                *told = true;
                texts.push(format!(
                    "packets from the {name} side arrive with checksums left to an offload that never \
                     happens, and the far end will drop them: run `ethtool -K INTERFACE tx off` for the \
                     interface at the other end of the link, or set l4_checksum = \"recompute\" for the \
                     interface here"
                ));
            }
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_is_named_once() {
        let mut warning = OffloadWarning::default();
        assert!(warning.look(|_| 0).is_empty());
        let texts = warning.look(|side| u64::from(side == Side::V4));
        assert_eq!(texts.len(), 1);
        assert!(texts[0].contains("IPv4 side") && texts[0].contains("ethtool -K INTERFACE tx off"));
        assert!(warning.look(|side| u64::from(side == Side::V4)).is_empty());
        assert_eq!(warning.look(|_| 9).len(), 1);
    }
}
