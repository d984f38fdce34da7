//! RFC 6147 section 5: what an AAAA question is answered, from what the upstream said.
//!
//! Pure: answers in, answers out. The caller asks the upstream, when [`Policy::after_aaaa`]
//! says that the A records are needed.

use std::net::{IpAddr, Ipv4Addr};

use gate64_wire::rfc6052::Pref64;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

use crate::answer::{Answer, ExtendedError, ExtendedErrorCode, is_signature_over};
use crate::config::{Network, OnFailure, Synthesize};

/// TTL limit of synthetic records when the absence of AAAA came without a SOA record
/// (RFC 6147 section 5.1.7).
pub const TTL_WITHOUT_SOA_SECONDS: u32 = 600;

/// TTL of the CNAME record from a reverse name under Pref64 (section 5.3.1 leaves it open).
pub const REVERSE_TTL_SECONDS: u32 = 600;

/// Said with an answer whose A records must not be mapped (section 5.2).
const KEPT_BACK: &str = "IPv4 addresses of this name are not translated";

/// The part of the configuration that decides about synthesis.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Each A record gives one AAAA record per prefix.
    pub pref64: Vec<Pref64>,
    /// Keeps non-global IPv4 out of the well-known prefix.
    pub wkp_strict: bool,
    /// Whether real AAAA records are kept.
    pub synthesize: Synthesize,
    /// Real AAAA records in these count as missing.
    pub exclude_aaaa: Vec<Network>,
    /// IPv4 addresses in these are never mapped.
    pub exclude_a: Vec<Network>,
    /// Names, with all below them, whose real AAAA records count as missing.
    pub ignore_aaaa_names: Vec<LowerName>,
    /// What a failed AAAA question does.
    pub on_failure: OnFailure,
}

/// What follows the answer to the AAAA question.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// This goes to the client.
    Answer(Answer),
    /// The A records have to be asked for; the AAAA answer, without what is excluded.
    AskA(Answer),
}

/// What the answer to the A question gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Synthetic AAAA records.
    Synthesized,
    /// A records, none of which may be mapped.
    KeptBack,
    /// No A record.
    Nothing,
}

impl Policy {
    /// Whether the real AAAA records of this name are not even asked for.
    pub fn hides_aaaa(&self, name: &LowerName) -> bool {
        self.synthesize == Synthesize::Always
            || self.ignore_aaaa_names.iter().any(|n| n.zone_of(name))
    }

    /// Judges the answer to the AAAA question.
    pub fn after_aaaa(&self, mut aaaa: Answer) -> Next {
        // Section 5.5: what failed validation must not be covered by a synthetic answer.
        if aaaa.is_bogus() {
            return Next::Answer(aaaa);
        }
        if !aaaa.is_success() {
            // Sections 5.1.2 and 5.1.3: any other RCODE, and no answer at all, count as empty.
            return match self.on_failure {
                OnFailure::Synthesize => Next::AskA(aaaa),
                OnFailure::Pass => Next::Answer(aaaa),
            };
        }
        // Section 5.1.2: a name that does not exist has no A record either.
        if aaaa.rcode != ResponseCode::NoError {
            return Next::Answer(aaaa);
        }
        self.remove_excluded(&mut aaaa);
        // Section 5.1.1: real AAAA records go to the client as they are.
        if aaaa.has(RecordType::AAAA) {
            return Next::Answer(aaaa);
        }
        Next::AskA(aaaa)
    }

    /// Section 5.1.4. A set of which a part is gone is no longer what was signed.
    fn remove_excluded(&self, aaaa: &mut Answer) {
        let before = aaaa.answers.len();
        aaaa.answers.retain(|record| match &record.data {
            RData::AAAA(AAAA(ip)) => !self
                .exclude_aaaa
                .iter()
                .any(|network| network.contains(IpAddr::V6(*ip))),
            _ => true,
        });
        if aaaa.answers.len() != before {
            aaaa.answers
                .retain(|r| !is_signature_over(r, RecordType::AAAA));
            aaaa.authentic = false;
        }
    }

    /// Section 5.4: the answer to the client from the answers to both questions. `aaaa` is
    /// missing if it was never asked for.
    pub fn assemble(&self, aaaa: Option<&Answer>, a: Answer) -> (Answer, Mapping) {
        if a.rcode != ResponseCode::NoError {
            return (a, Mapping::Nothing);
        }
        let limit = match aaaa {
            Some(aaaa) => aaaa.negative_ttl().unwrap_or(TTL_WITHOUT_SOA_SECONDS),
            None => TTL_WITHOUT_SOA_SECONDS,
        };
        let answers = self.answer_section(&a.answers, limit);
        let synthesized = answers.iter().any(|r| r.record_type() == RecordType::AAAA);
        let mapping = match a.has(RecordType::A) {
            _ if synthesized => Mapping::Synthesized,
            true => Mapping::KeptBack,
            false => Mapping::Nothing,
        };
        let mut answer = match aaaa {
            // Section 5.4: nothing to map, so the client gets what its own question got.
            Some(aaaa) if !synthesized => aaaa.clone(),
            _ => Answer {
                answers,
                // Nothing signed covers a synthetic record.
                authentic: false,
                // Section 5.3.2: authority and additional sections are passed unchanged.
                ..a
            },
        };
        if mapping == Mapping::KeptBack {
            let error = ExtendedError::new(ExtendedErrorCode::Other, KEPT_BACK);
            answer.extended_errors.push(error);
        }
        (answer, mapping)
    }

    /// Section 5.1.7, with the chain of CNAME and DNAME records of section 5.1.5 kept.
    fn answer_section(&self, answers: &[Record], ttl_limit: u32) -> Vec<Record> {
        let mut section = Vec::with_capacity(answers.len() * self.pref64.len());
        for record in answers {
            match &record.data {
                RData::A(A(ip)) => {
                    let ttl = record.ttl.min(ttl_limit);
                    let prefixes = self.pref64.iter().filter(|p| self.may_map(**p, *ip));
                    section.extend(prefixes.map(|p| {
                        Record::from_rdata(
                            record.name.clone(),
                            ttl,
                            RData::AAAA(AAAA(p.embed(*ip))),
                        )
                    }));
                }
                _ if is_signature_over(record, RecordType::A) => {}
                _ => section.push(record.clone()),
            }
        }
        section
    }

    /// Section 5.2, and RFC 6052 section 3.1 for the well-known prefix.
    fn may_map(&self, pref64: Pref64, ip: Ipv4Addr) -> bool {
        if self.exclude_a.iter().any(|n| n.contains(IpAddr::V4(ip))) {
            return false;
        }
        !(self.wkp_strict && pref64.is_well_known() && !is_global(ip))
    }

    /// Section 5.3.1: a name under ip6.arpa that stands for an IPv4 address inside a Pref64, and
    /// the name under in-addr.arpa where its PTR record is.
    pub fn reverse_target(&self, name: &LowerName) -> Option<Name> {
        let network = Name::from(name.clone()).parse_arpa_name().ok()?;
        let IpAddr::V6(ip) = network.addr() else {
            return None;
        };
        if network.prefix_len() != 128 {
            return None;
        }
        let ip = self.pref64.iter().find_map(|p| p.extract(ip))?;
        Some(Name::from(ip))
    }

    /// The CNAME record that leads there.
    pub fn reverse_cname(name: &LowerName, target: &Name) -> Record {
        Record::from_rdata(
            Name::from(name.clone()),
            REVERSE_TTL_SECONDS,
            RData::CNAME(CNAME(target.clone())),
        )
    }
}

/// The special-purpose blocks of RFC 6890 that are not globally reachable, multicast included.
const NOT_GLOBAL: [([u8; 4], u32); 15] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

fn is_global(ip: Ipv4Addr) -> bool {
    !NOT_GLOBAL.iter().any(|(network, length)| {
        (u32::from(ip) ^ u32::from_be_bytes(*network)) >> (32 - length) == 0
    })
}
