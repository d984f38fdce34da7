//! The MSS option of SYN segments, lowered to what both sides' links carry.

use gate64_wire::checksum::Delta;
use gate64_wire::facts::tcp_flag;
use gate64_wire::tcp;

/// Lowers the MSS option of a SYN segment to `mss_max` and updates the checksum; other segments,
/// smaller values and SYNs without the option are left alone. `l4` begins with the TCP header.
/// Says whether something was written.
pub fn clamp_mss(l4: &mut [u8], mss_max: u16) -> bool {
    let Ok(header) = tcp::Header::parse(l4) else {
        return false;
    };
    if header.flags & tcp_flag::SYN == 0 {
        return false;
    }
    let Some(at) = tcp::mss_at(&l4[..usize::from(header.len)]) else {
        return false;
    };
    let Some(value) = l4.get_mut(at..at + 2) else {
        return false;
    };
    let old = u16::from_be_bytes([value[0], value[1]]);
    if old <= mss_max {
        return false;
    }
    value.copy_from_slice(&mss_max.to_be_bytes());
    // Behind an odd number of padding octets the value lies across two words of the sum.
    let delta = if at.is_multiple_of(2) {
        Delta::of_word(old, mss_max)
    } else {
        Delta::of_word(old.swap_bytes(), mss_max.swap_bytes())
    };
    super::delta::update(l4, tcp::CHECKSUM_AT, |checksum| delta.apply(checksum));
    true
}
