//! Answers made from a wildcard record (RFC 4035 section 5.3.4).
//!
//! hickory-net 0.26 wants an NSEC record that covers the wildcard itself, which exists, and so
//! finds every such answer of a zone with NSEC bogus. What the RFC wants is proof that nothing
//! closer to the name exists than the wildcard.

use hickory_proto::dnssec::Proof;
use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Whether all answers are validly signed, and the authority section proves for each that was
/// made from a wildcard that its name had no closer match.
pub(super) fn is_proven(message: &Message) -> bool {
    let is_secure = |record: &Record| {
        record.record_type() == RecordType::RRSIG || record.proof == Proof::Secure
    };
    let mut made = message
        .answers
        .iter()
        .filter_map(closest_encloser)
        .peekable();
    message.metadata.response_code == ResponseCode::NoError
        && message.answers.iter().all(is_secure)
        && made.peek().is_some()
        && made.all(|(name, labels)| has_no_closer_match(message, name, labels))
}

/// Whether this is a signature over records made from a wildcard.
pub(super) fn is_made(record: &Record) -> bool {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => {
            rrsig.input().num_labels < record.name.num_labels()
        }
        _ => false,
    }
}

/// The owner of a wildcard's signature, and the number of labels in the name that the wildcard
/// stands below. Only the signature that proved the records is marked secure.
fn closest_encloser(record: &Record) -> Option<(&Name, u8)> {
    let RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) = &record.data else {
        return None;
    };
    let labels = rrsig.input().num_labels;
    let is_made = record.proof == Proof::Secure && labels < record.name.num_labels();
    is_made.then_some((&record.name, labels))
}

/// An NSEC record says that the name is not there, and neither is any on the way to it from the
/// closest encloser.
fn has_no_closer_match(message: &Message, name: &Name, labels: u8) -> bool {
    let next_closer = name.trim_to(usize::from(labels) + 1);
    let secure = message
        .authorities
        .iter()
        .filter(|record| record.proof == Proof::Secure);
    let mut denials = secure.filter_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => Some((&record.name, nsec)),
        _ => None,
    });
    denials.any(|(owner, nsec)| {
        covers(owner, nsec, name)
            && !next_closer.zone_of(owner)
            && !next_closer.zone_of(nsec.next_domain_name())
    })
}

/// RFC 4034 section 4.1.1: the name falls between the owner and the next name of its zone, the
/// last of which is the apex.
fn covers(owner: &Name, nsec: &NSEC, name: &Name) -> bool {
    let next = nsec.next_domain_name();
    let is_last = next <= owner && next.zone_of(name);
    // RFC 6840 section 4.1: at a zone cut the parent's record says nothing of what is below.
    let types = nsec.type_set();
    let is_cut = types.contains(RecordType::NS) && !types.contains(RecordType::SOA);
    let is_redirected = types.contains(RecordType::DNAME);
    name > owner && (name < next || is_last) && !((is_cut || is_redirected) && owner.zone_of(name))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn message(owner: &str, next: &str, types: &[RecordType]) -> Message {
        let nsec = NSEC::new(name(next), types.iter().copied());
        let data = RData::DNSSEC(DNSSECRData::NSEC(nsec));
        let mut record = Record::from_rdata(name(owner), 60, data);
        record.proof = Proof::Secure;
        let mut message = Message::query();
        message.authorities = vec![record];
        message
    }

    #[test]
    fn rfc4035_section_5_3_4_nothing_closer_than_the_wildcard_exists() {
        let plain = [RecordType::A];
        let cut = [RecordType::NS];
        // x.b.wild.zone. made from *.wild.zone., which stands below three labels less one.
        for (owner, next, types, proven) in [
            ("*.wild.zone.", "zone.", &plain[..], true),
            ("a.wild.zone.", "c.wild.zone.", &plain, true),
            ("b.wild.zone.", "c.wild.zone.", &plain, false),
            ("a.b.wild.zone.", "c.wild.zone.", &plain, false),
            ("a.wild.zone.", "z.b.wild.zone.", &plain, false),
            ("a.wild.zone.", "b.wild.zone.", &plain, false),
            ("y.other.", "other.", &plain, false),
            ("wild.zone.", "zone.", &cut, false),
        ] {
            let message = message(owner, next, types);
            let asked = name("x.b.wild.zone.");
            assert_eq!(
                has_no_closer_match(&message, &asked, 2),
                proven,
                "{owner} {next}"
            );
        }
        let mut unsigned = message("*.wild.zone.", "zone.", &plain);
        unsigned.authorities[0].proof = Proof::Insecure;
        assert!(!has_no_closer_match(&unsigned, &name("x.b.wild.zone."), 2));
    }
}
