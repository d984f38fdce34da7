//! Short answers that need no look-up: refused, overloaded, or cut so that the client asks by TCP.

use super::query::{HEADER, Query};
use crate::answer::ExtendedErrorCode;
use crate::upstream::UDP_PAYLOAD_MAX;

/// What is said, in place of an answer.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    /// At most 15.
    pub(super) rcode: u8,
    /// TC: the answer is to be had over TCP.
    pub(super) truncated: bool,
    /// For clients that speak EDNS (RFC 8914).
    pub(super) error: Option<(ExtendedErrorCode, &'static str)>,
}

/// The client's network is not served.
pub(super) const PROHIBITED: Refusal = Refusal {
    rcode: 5,
    truncated: false,
    error: Some((ExtendedErrorCode::Prohibited, "client network not served")),
};

/// Too many clients wait.
pub(super) const OVERLOAD: Refusal = Refusal {
    rcode: 2,
    truncated: false,
    error: Some((ExtendedErrorCode::Other, "too many clients are waiting")),
};

/// The thread that would answer is no more.
pub(super) const BROKEN: Refusal = Refusal {
    rcode: 2,
    truncated: false,
    error: Some((ExtendedErrorCode::Other, "internal error")),
};

/// Too many answers to the client's network: a real client repeats it over TCP.
pub(super) const SLIP: Refusal = Refusal {
    rcode: 0,
    truncated: true,
    error: None,
};

/// Not a message that can be read.
pub(super) const FORMERR: Refusal = Refusal {
    rcode: 1,
    truncated: false,
    error: None,
};

/// An opcode other than QUERY.
pub(super) const NOTIMP: Refusal = Refusal {
    rcode: 4,
    truncated: false,
    error: None,
};

impl Refusal {
    /// Writes the refusal of these octets; without a readable question, the header alone.
    pub(super) fn write(
        &self,
        octets: &[u8],
        query: Option<&Query>,
        out: &mut [u8],
    ) -> Option<usize> {
        let question_end = query.map_or(HEADER, |query| query.question_end);
        let mut len = question_end;
        out.get_mut(..len)?.copy_from_slice(octets.get(..len)?);
        // QR and RA; opcode, RD and CD as asked.
        out[2] = 0x80 | octets[2] & 0x79 | if self.truncated { 0x02 } else { 0 };
        out[3] = 0x80 | octets[3] & 0x10 | self.rcode;
        out[4..HEADER].fill(0);
        out[5] = u8::from(query.is_some());
        if let Some(query) = query.filter(|query| query.has_edns()) {
            out[11] = 1;
            len += self.write_opt(query.dnssec_ok(), out.get_mut(len..)?)?;
        }
        Some(len)
    }

    fn write_opt(&self, dnssec_ok: bool, out: &mut [u8]) -> Option<usize> {
        let fixed = out.first_chunk_mut::<11>()?;
        let [size_high, size_low] = UDP_PAYLOAD_MAX.to_be_bytes();
        let flags = if dnssec_ok { 0x80 } else { 0 };
        *fixed = [0, 0, 41, size_high, size_low, 0, 0, flags, 0, 0, 0];
        let Some((code, text)) = self.error else {
            return Some(fixed.len());
        };
        let text_len = u8::try_from(text.len()).ok()?.checked_add(6)?;
        fixed[10] = text_len;
        let option = out.get_mut(11..11 + usize::from(text_len))?;
        option[..4].copy_from_slice(&[0, 15, 0, text_len - 4]);
        option[4..6].copy_from_slice(&(code as u16).to_be_bytes());
        option[6..].copy_from_slice(text.as_bytes());
        Some(11 + usize::from(text_len))
    }
}
