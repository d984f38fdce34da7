//! What NSEC3 records say (RFC 5155), where hickory-net 0.26 does not look closely enough.

use data_encoding::BASE32_DNSSEC;
use hickory_proto::dnssec::Proof;
use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC3};
use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record};

use super::wildcard;

/// Records with more iterations prove nothing (RFC 9276 section 3.2): hickory's bound.
const ITERATIONS_MAX: u16 = 100;

/// The validly signed NSEC3 records of the authority section with their owners.
pub(super) fn secure(message: &Message) -> impl Iterator<Item = (&Name, &NSEC3)> {
    message
        .authorities
        .iter()
        .filter_map(|record| match record {
            Record {
                name,
                data: RData::DNSSEC(DNSSECRData::NSEC3(nsec3)),
                proof: Proof::Secure,
                ..
            } => Some((name, nsec3)),
            _ => None,
        })
}

/// Whether the record, of this zone, says that the name does not exist (section 8.3).
pub(super) fn covers(owner: &Name, nsec3: &NSEC3, zone: &Name, name: &Name) -> bool {
    let Some((from, hash)) = hashes(owner, nsec3, zone, name) else {
        return false;
    };
    let next = nsec3.next_hashed_owner_name();
    // The last record of the zone points to the first.
    match *from < *next {
        true => *from < *hash && *hash < *next,
        false => *from < *hash || *hash < *next,
    }
}

/// Whether the absence of the name, or of a record of it, rests on a record that leaves open
/// whether there is a delegation (section 6): then the answer must not have AD (section 9.2).
pub(super) fn is_opted_out(message: &Message, name: &Name) -> bool {
    let matches = |(owner, nsec3): (&Name, &NSEC3)| {
        hashes(owner, nsec3, &owner.base_name(), name).is_some_and(|(own, hash)| own == hash)
    };
    secure(message).any(|(_, nsec3)| nsec3.opt_out()) && !secure(message).any(matches)
}

/// Whether the NSEC3 records are those of a zone that the name is in, as the zone's SOA record or
/// its wildcard says. hickory finds insecure what is denied with too many iterations, even by the
/// records of a zone that has nothing to do with the name.
pub(super) fn is_of_the_zone(message: &Message, name: &Name) -> bool {
    let is_secure_soa = |r: &&Record| r.proof == Proof::Secure && matches!(r.data, RData::SOA(_));
    let soas = message.authorities.iter().filter(is_secure_soa);
    let wildcards = wildcard::expansions(message).map(|expansion| expansion.zone);
    let mut zones = soas.map(|soa| &soa.name).chain(wildcards);
    zones.any(|zone| {
        zone.zone_of(name) && secure(message).all(|(owner, _)| owner.base_name() == *zone)
    })
}

/// The hash that the record stands at, and that of the name.
fn hashes(owner: &Name, nsec3: &NSEC3, zone: &Name, name: &Name) -> Option<(Vec<u8>, Vec<u8>)> {
    if owner.base_name() != *zone || !zone.zone_of(name) || nsec3.iterations() > ITERATIONS_MAX {
        return None;
    }
    let from = BASE32_DNSSEC.decode(owner.iter().next()?).ok()?;
    let algorithm = nsec3.hash_algorithm();
    let hash = algorithm.hash(nsec3.salt(), name, nsec3.iterations());
    Some((from, hash.ok()?.as_ref().to_vec()))
}

#[cfg(test)]
mod tests {
    use hickory_proto::dnssec::Nsec3HashAlgorithm;
    use hickory_proto::rr::RecordType;
    use hickory_proto::rr::rdata::SOA;

    use super::*;
    use crate::testing::name;

    /// RFC 5155 appendix A: 12 iterations, the salt aabbccdd.
    fn record(owner: &str, next: &str, opt_out: bool, iterations: u16) -> Record {
        let nsec3 = NSEC3::new(
            Nsec3HashAlgorithm::SHA1,
            opt_out,
            iterations,
            vec![0xaa, 0xbb, 0xcc, 0xdd],
            BASE32_DNSSEC.decode(next.as_bytes()).unwrap(),
            [RecordType::A],
        );
        let data = RData::DNSSEC(DNSSECRData::NSEC3(nsec3));
        let mut record = Record::from_rdata(name(owner), 60, data);
        record.proof = Proof::Secure;
        record
    }

    fn message(records: Vec<Record>) -> Message {
        let mut message = Message::query();
        message.authorities = records;
        message
    }

    fn is_covered(record: Record, zone: &str, denied: &str) -> bool {
        let message = message(vec![record]);
        secure(&message).any(|(owner, nsec3)| covers(owner, nsec3, &name(zone), &name(denied)))
    }

    // Appendix B.4: *.w.example. is expanded for a.z.w.example.; z.w.example. has the hash
    // qlu7gtfaeh0ek0c05ksfhdpbcgglbe03.
    const FROM: &str = "q04jkcevqvmu85r014c7dkba38o0ji5r.example.";
    const TO: &str = "r53bq7cc2uvmubfu5ocmm6pers9tk9en";

    #[test]
    fn rfc5155_section_8_8_the_next_closer_name_is_covered() {
        let denial = || record(FROM, TO, false, 12);
        assert!(is_covered(denial(), "example.", "z.w.example."));
        assert!(is_covered(denial(), "example.", "Z.W.example."));
        // ns1.example. has the hash 2t7b4g4vsa5smi47k61mv5bv1a22bojr.
        assert!(!is_covered(denial(), "example.", "ns1.example."));
        assert!(!is_covered(denial(), "w.example.", "z.w.example."));
        assert!(!is_covered(denial(), "example.", "z.w.other."));
        assert!(!is_covered(
            record(FROM, TO, false, 101),
            "example.",
            "z.w.example."
        ));
        // The last record of a zone, and one that stands alone.
        let last = record(&format!("{TO}.example."), &FROM[..32], false, 12);
        assert!(is_covered(last.clone(), "example.", "ns1.example."));
        assert!(!is_covered(last, "example.", "z.w.example."));
        let alone = record(FROM, &FROM[..32], false, 12);
        assert!(is_covered(alone, "example.", "z.w.example."));
        // x.w.example. has the hash b4um86eghhds6nea196smvmlo4ors995: it exists.
        let own = "b4um86eghhds6nea196smvmlo4ors995";
        let own = record(&format!("{own}.example."), own, false, 12);
        assert!(!is_covered(own, "example.", "x.w.example."));
    }

    #[test]
    fn rfc5155_section_9_2_an_opt_out_leaves_open_what_is_there() {
        let absent = name("z.w.example.");
        for (opt_out, is_open) in [(false, false), (true, true)] {
            let message = message(vec![record(FROM, TO, opt_out, 12)]);
            assert_eq!(is_opted_out(&message, &absent), is_open);
        }
        let own = "b4um86eghhds6nea196smvmlo4ors995.example.";
        let message = message(vec![record(own, TO, true, 12)]);
        assert!(!is_opted_out(&message, &name("x.w.example.")), "it exists");
    }

    #[test]
    fn rfc9276_too_many_iterations_are_those_of_the_names_own_zone() {
        let soa = |zone: &str| {
            let soa = SOA::new(name(zone), name(zone), 1, 2, 3, 4, 5);
            let mut record = Record::from_rdata(name(zone), 60, RData::SOA(soa));
            record.proof = Proof::Secure;
            record
        };
        let denial = || record(FROM, TO, false, 150);
        let is_own = |records, asked| is_of_the_zone(&message(records), &name(asked));
        assert!(is_own(vec![denial(), soa("example.")], "a.example."));
        assert!(!is_own(vec![denial(), soa("example.")], "a.victim."));
        assert!(!is_own(vec![denial(), soa("victim.")], "a.victim."));
        assert!(!is_own(vec![denial()], "a.example."));
        let mut unsigned = soa("example.");
        unsigned.proof = Proof::Insecure;
        assert!(!is_own(vec![denial(), unsigned], "a.example."));
    }
}
