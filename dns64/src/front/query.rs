//! What the front reads of a query: enough to find its answer, and nothing it cannot judge.

use hickory_proto::rr::RecordType;

pub(super) use crate::request::HEADER;

/// The longest name on the wire (RFC 1035 section 2.3.4).
const NAME_OCTETS_MAX: usize = 255;
/// Flags, client class, type and class go before the name.
const KEY_HEAD: usize = 6;
const KEY_OCTETS_MAX: usize = KEY_HEAD + NAME_OCTETS_MAX;
/// The least UDP payload size that counts (RFC 6891 section 6.2.3).
pub(super) const UDP_PAYLOAD_MIN: u16 = 512;

/// How a datagram is dealt with.
#[allow(clippy::large_enum_variant)] // made and taken apart on the stack, once a datagram
pub(super) enum Read {
    /// A question as almost all are: its answer may be at hand.
    Plain(Query),
    /// Something that the general path has to judge.
    Other,
    /// Nothing to answer: no header, or a response, which must never be answered.
    Silent,
}

/// One question in class IN, with or without an OPT record.
pub(super) struct Query {
    key: [u8; KEY_OCTETS_MAX],
    key_len: usize,
    /// Where the question section ends in the datagram.
    pub(super) question_end: usize,
    /// The largest answer that the client takes.
    pub(super) payload_max: u16,
}

impl Query {
    /// What the answer depends on; the client's class is set first.
    pub(super) fn key(&self) -> &[u8] {
        &self.key[..self.key_len]
    }

    /// Whether it came with an OPT record.
    pub(super) fn has_edns(&self) -> bool {
        self.key[0] & KEY_EDNS != 0
    }

    /// Whether signatures are wanted (RFC 3225).
    pub(super) fn dnssec_ok(&self) -> bool {
        self.key[0] & KEY_DO != 0
    }

    /// The type asked for.
    pub(super) fn qtype(&self) -> RecordType {
        RecordType::from(u16::from_be_bytes([self.key[2], self.key[3]]))
    }

    /// The same question may be answered differently to clients of different classes.
    pub(super) fn set_client_class(&mut self, class: u8) {
        self.key[1] = class;
    }
}

/// Bits of the key's first octet beside AD and CD, which stay where the header has them.
const KEY_RD: u8 = 0x01;
const KEY_EDNS: u8 = 0x02;
const KEY_DO: u8 = 0x80;

/// Reads a datagram.
pub(super) fn read(octets: &[u8]) -> Read {
    let Some(header) = octets.first_chunk::<HEADER>() else {
        return Read::Silent;
    };
    if header[2] & 0x80 != 0 {
        return Read::Silent;
    }
    plain(octets, header).map_or(Read::Other, Read::Plain)
}

fn plain(octets: &[u8], header: &[u8; HEADER]) -> Option<Query> {
    // Opcode 0, no AA, TC, RA, Z or RCODE; one question, no answer or authority, at most an OPT.
    let is_plain = header[2] & 0xfe == 0 && header[3] & 0xcf == 0;
    if !is_plain || header[4..10] != [0, 1, 0, 0, 0, 0] {
        return None;
    }
    let name_end = name_end(octets)?;
    let fixed = octets.get(name_end..name_end + 4)?;
    if fixed[2..] != [0, 1] {
        return None;
    }
    let mut query = Query {
        key: [0; KEY_OCTETS_MAX],
        key_len: KEY_HEAD + name_end - HEADER,
        question_end: name_end + 4,
        payload_max: UDP_PAYLOAD_MIN,
    };
    query.key[2..KEY_HEAD].copy_from_slice(fixed);
    let name = &mut query.key[KEY_HEAD..query.key_len];
    name.copy_from_slice(&octets[HEADER..name_end]);
    // Lengths are below 64, so none of them is a letter.
    name.make_ascii_lowercase();
    query.key[0] = header[3] & 0x30 | header[2] & KEY_RD;
    let rest = &octets[query.question_end..];
    match header[10..] {
        [0, 0] if rest.is_empty() => {}
        [0, 1] => {
            let (payload_max, flags) = opt(rest)?;
            query.payload_max = payload_max;
            query.key[0] |= KEY_EDNS | flags & KEY_DO;
        }
        _ => return None,
    }
    Some(query)
}

/// Where the name after the header ends. Compressed names are for the general path.
fn name_end(octets: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let len = usize::from(*octets.get(at)?);
        if len > 63 {
            return None;
        }
        at += 1 + len;
        if at - HEADER > NAME_OCTETS_MAX {
            return None;
        }
        if len == 0 {
            return Some(at);
        }
    }
}

/// The payload size and the flags of an OPT record of version 0 (RFC 6891 section 6.1) that
/// ends the message. Its options change no answer of this server.
fn opt(octets: &[u8]) -> Option<(u16, u8)> {
    let (fixed, options) = octets.split_first_chunk::<11>()?;
    let [
        0,
        0,
        41,
        size_high,
        size_low,
        0,
        0,
        flags,
        _,
        len_high,
        len_low,
    ] = *fixed
    else {
        return None;
    };
    if options.len() != usize::from(u16::from_be_bytes([len_high, len_low])) {
        return None;
    }
    let mut options = options;
    while let Some(([_, _, high, low], rest)) = options.split_first_chunk::<4>() {
        options = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..)?;
    }
    let size = u16::from_be_bytes([size_high, size_low]);
    options
        .is_empty()
        .then_some((size.max(UDP_PAYLOAD_MIN), flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &[u8], tail: &[u8], additional: u8) -> Vec<u8> {
        let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional];
        [&header, name, tail].concat()
    }

    const NAME: &[u8] = b"\x03WwW\x04tesT\x00";
    const AAAA_IN: &[u8] = &[0, 28, 0, 1];

    fn plain_query(octets: &[u8]) -> Query {
        match read(octets) {
            Read::Plain(query) => query,
            _ => panic!("not plain"),
        }
    }

    #[test]
    fn the_key_is_blind_to_case_and_id_and_nothing_else() {
        let upper = plain_query(&query(NAME, AAAA_IN, 0));
        let lower = plain_query(&query(b"\x03www\x04test\x00", AAAA_IN, 0));
        assert_eq!(upper.key(), lower.key());
        assert_eq!(upper.question_end, 12 + 10 + 4);
        assert_eq!(upper.payload_max, 512);
        let other_type = plain_query(&query(NAME, &[0, 1, 0, 1], 0));
        assert_ne!(upper.key(), other_type.key());
        let opt: &[u8] = &[AAAA_IN, &[0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 0]].concat();
        let with_do = plain_query(&query(NAME, opt, 1));
        assert_ne!(upper.key(), with_do.key());
        assert_eq!(with_do.payload_max, 4096);
        let mut other_class = plain_query(&query(NAME, AAAA_IN, 0));
        other_class.set_client_class(1);
        assert_ne!(upper.key(), other_class.key());
    }

    #[test]
    fn options_are_passed_over_and_a_small_size_counts_as_512() {
        let cookie: &[u8] = &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
        let opt = [AAAA_IN, &[0, 0, 41, 0, 100, 0, 0, 0, 0, 0, 12], cookie].concat();
        assert_eq!(plain_query(&query(NAME, &opt, 1)).payload_max, 512);
        let cut = &query(NAME, &opt, 1)[..40];
        assert!(matches!(read(cut), Read::Other));
    }

    #[test]
    fn what_is_odd_goes_the_general_way_and_responses_nowhere() {
        let good = query(NAME, AAAA_IN, 0);
        for (at, value) in [(2, 0x29), (3, 0x0f), (5, 2), (7, 1), (11, 2), (12, 0xc0)] {
            let mut odd = good.clone();
            odd[at] = value;
            assert!(matches!(read(&odd), Read::Other), "octet {at}");
        }
        assert!(matches!(read(&query(NAME, &[0, 28, 0, 3], 0)), Read::Other));
        for cut in 12..good.len() {
            assert!(matches!(read(&good[..cut]), Read::Other), "{cut} octets");
        }
        let mut response = good.clone();
        response[2] |= 0x80;
        assert!(matches!(read(&response), Read::Silent));
        assert!(matches!(read(&good[..11]), Read::Silent));
    }
}
