//! Answers made from a wildcard record (RFC 4035 section 5.3.4): the authority section has to prove
//! that nothing closer to the name exists than the wildcard.
//!
//! hickory-net 0.26 does not judge this well. In a zone with NSEC it wants a record that covers the
//! wildcard itself, which exists, and so finds every such answer bogus; in one with NSEC3 it believes
//! a signature that nobody made about where the wildcard stands; and it asks for no proof at all
//! where the authority section holds nothing but records of a zone without signatures.

use hickory_proto::dnssec::Proof;
use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC, RRSIG};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::nsec3;

/// Whether all answers are validly signed, and for each that was made from a wildcard, as some
/// were, it is proven that its name had no closer match.
pub(super) fn is_proven(message: &Message) -> bool {
    let is_secure = |record: &Record| {
        record.record_type() == RecordType::RRSIG || record.proof == Proof::Secure
    };
    message.metadata.response_code == ResponseCode::NoError
        && message.answers.iter().all(is_secure)
        && expansions(message).next().is_some()
        && denial(message) != Denial::Missing
}

/// What is said of names closer than the wildcards that answers were made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Denial {
    /// They do not exist, or no answer was made from a wildcard.
    Whole,
    /// They do not exist, unless as a delegation without signatures (RFC 5155 section 6).
    OptOut,
    /// Nothing: they may exist.
    Missing,
}

/// The least that is proven for any of the answers.
pub(super) fn denial(message: &Message) -> Denial {
    let denials = expansions(message).map(|expansion| denial_of(message, &expansion));
    denials.max().unwrap_or(Denial::Whole)
}

/// Records made from a wildcard.
pub(super) struct Expansion<'a> {
    name: &'a Name,
    /// The zone that signed the wildcard.
    pub(super) zone: &'a Name,
    /// Labels of the name that the wildcard stands below.
    labels: u8,
}

/// The records made from wildcards. Only the signatures that proved them are marked secure.
pub(super) fn expansions(message: &Message) -> impl Iterator<Item = Expansion<'_>> {
    let secure = message.answers.iter().filter(|r| r.proof == Proof::Secure);
    secure.filter_map(|record| {
        let input = expanded(record)?.input();
        Some(Expansion {
            name: &record.name,
            zone: &input.signer_name,
            labels: input.num_labels,
        })
    })
}

/// Whether this is a signature over records made from a wildcard.
pub(super) fn is_made(record: &Record) -> bool {
    expanded(record).is_some()
}

/// Neither number counts an asterisk in front (RFC 4034 section 3.1.3, hickory's `num_labels`).
fn expanded(record: &Record) -> Option<&RRSIG> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig))
            if rrsig.input().num_labels < record.name.num_labels() =>
        {
            Some(rrsig)
        }
        _ => None,
    }
}

fn denial_of(message: &Message, expansion: &Expansion<'_>) -> Denial {
    if has_no_closer_match(message, expansion.name, expansion.labels) {
        return Denial::Whole;
    }
    let next_closer = expansion.name.trim_to(usize::from(expansion.labels) + 1);
    let covering = nsec3::secure(message)
        .filter(|(owner, nsec3)| nsec3::covers(owner, nsec3, expansion.zone, &next_closer));
    let of_each = covering.map(|(_, nsec3)| match nsec3.opt_out() {
        true => Denial::OptOut,
        false => Denial::Whole,
    });
    of_each.min().unwrap_or(Denial::Missing)
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
    use super::*;
    use crate::testing::name;

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
