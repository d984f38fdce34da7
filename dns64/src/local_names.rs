//! Names that a DNS64 answers itself: ipv4only.arpa and its reverse names (RFC 7050, RFC 8880).

use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

use crate::answer::{Answer, Question};
use crate::synthesis::Policy;

/// The addresses that reveal Pref64 (RFC 7050 section 2.2).
pub const WELL_KNOWN_ADDRESSES: [Ipv4Addr; 2] =
    [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// TTL of the addresses as they stand in the real zone.
const TTL_SECONDS: u32 = 86_400;
/// TTL of the synthetic ones: a host asks again before it ends (RFC 7050 section 3), so a
/// changed prefix is seen within this time.
const SYNTHETIC_TTL_SECONDS: u32 = 600;
/// TTL of absences.
const NEGATIVE_TTL_SECONDS: u32 = 3600;

/// The answer to a question under the special names, or nothing if it is none of them.
/// `synthesize` says whether this client and question get synthetic records.
pub fn answer(policy: &Policy, question: &Question, synthesize: bool) -> Option<Answer> {
    // The parent's proof that nothing is signed below it is what a validating client needs.
    if question.qtype == RecordType::DS {
        return None;
    }
    if question.name.iter().next_back() != Some(b"arpa") {
        return None;
    }
    let ipv4only = name(&["ipv4only", "arpa"]);
    let reverse = WELL_KNOWN_ADDRESSES.map(Name::from);
    let zone = std::iter::once(&ipv4only)
        .chain(&reverse)
        .find(|zone| LowerName::new(zone).zone_of(&question.name))?;
    if LowerName::new(zone) != question.name {
        // RFC 8880 section 7.1: there is nothing below the names.
        return Some(absent(zone, ResponseCode::NXDomain));
    }
    let data: Vec<(RData, u32)> = match question.qtype {
        // RFC 8482 section 4.1: some of the records there are do for ANY.
        RecordType::A | RecordType::ANY if *zone == ipv4only => WELL_KNOWN_ADDRESSES
            .map(|ip| (RData::A(A(ip)), TTL_SECONDS))
            .to_vec(),
        RecordType::AAAA if *zone == ipv4only && synthesize => {
            // RFC 7050 section 3: one address of each prefix suffices; both are given, as the
            // A records would be mapped. The well-known prefix takes these two as well.
            let prefixes = policy.pref64.iter();
            let ips = prefixes.flat_map(|p| WELL_KNOWN_ADDRESSES.map(|ip| p.embed(ip)));
            ips.map(|ip| (RData::AAAA(AAAA(ip)), SYNTHETIC_TTL_SECONDS))
                .collect()
        }
        RecordType::PTR | RecordType::ANY if *zone != ipv4only => {
            vec![(RData::PTR(PTR(ipv4only.clone())), TTL_SECONDS)]
        }
        RecordType::SOA => vec![(RData::SOA(soa(zone)), TTL_SECONDS)],
        _ => return Some(absent(zone, ResponseCode::NoError)),
    };
    let records = data.into_iter();
    Some(Answer {
        answers: records
            .map(|(data, ttl)| Record::from_rdata(zone.clone(), ttl, data))
            .collect(),
        ..Answer::empty(ResponseCode::NoError)
    })
}

fn absent(zone: &Name, rcode: ResponseCode) -> Answer {
    let soa = Record::from_rdata(zone.clone(), NEGATIVE_TTL_SECONDS, RData::SOA(soa(zone)));
    Answer {
        authorities: vec![soa],
        ..Answer::empty(rcode)
    }
}

fn soa(zone: &Name) -> SOA {
    let nobody = name(&["nobody", "invalid"]);
    SOA::new(
        zone.clone(),
        nobody,
        1,
        7200,
        3600,
        604_800,
        NEGATIVE_TTL_SECONDS,
    )
}

fn name(labels: &[&str]) -> Name {
    Name::from_labels(labels.iter().map(|label| label.as_bytes()))
        .expect("a constant name is well formed")
}
