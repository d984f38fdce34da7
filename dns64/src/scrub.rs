//! What of an upstream's answer is believed: records that belong to the question, and no more.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};

use crate::answer::{Answer, Question};

/// Longest chain of aliases from the name asked for.
const CHAIN_MAX: usize = 16;

/// RFC 2181 section 8: a TTL with the most significant bit set counts as zero.
const TTL_SIGN_BIT: u32 = 1 << 31;

/// Why an answer is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("the aliases of the name go round in a circle")]
    Loop,
    #[error("the name has too many aliases")]
    LongChain,
}

/// Drops what the upstream has no business to say, and cuts TTLs to `ttl_max` seconds.
///
/// # Errors
/// Aliases that lead nowhere; there is no answer then.
pub(crate) fn scrub(
    question: &Question,
    answer: &mut Answer,
    ttl_max: u32,
) -> Result<(), Unusable> {
    for records in sections(answer) {
        records.retain(|record| record.dns_class == DNSClass::IN);
        for record in records {
            record.ttl = match record.ttl & TTL_SIGN_BIT {
                0 => record.ttl.min(ttl_max),
                _ => 0,
            };
        }
    }
    let chain = chain(question, &answer.answers)?;
    answer.answers.retain(|record| is_of_chain(&chain, record));
    answer
        .authorities
        .retain(|record| may_testify(&chain, record));
    let Answer {
        answers,
        authorities,
        additionals,
        ..
    } = answer;
    additionals.retain(|record| is_near(&chain, answers, authorities, &record.name));
    Ok(())
}

fn sections(answer: &mut Answer) -> [&mut Vec<Record>; 3] {
    [
        &mut answer.answers,
        &mut answer.authorities,
        &mut answer.additionals,
    ]
}

/// The name asked for and what it is an alias of, in turn.
fn chain(question: &Question, answers: &[Record]) -> Result<Vec<LowerName>, Unusable> {
    let mut chain = vec![question.name.clone()];
    // Who asks for the alias itself gets it, wherever it leads.
    if question.asks_alias() {
        return Ok(chain);
    }
    while let Some(target) = alias(answers, &chain[chain.len() - 1]) {
        if chain.contains(&target) {
            return Err(Unusable::Loop);
        }
        if chain.len() > CHAIN_MAX {
            return Err(Unusable::LongChain);
        }
        chain.push(target);
    }
    Ok(chain)
}

/// What the name is an alias of.
fn alias(answers: &[Record], name: &LowerName) -> Option<LowerName> {
    let name: &Name = name;
    answers.iter().find_map(|record| match &record.data {
        RData::CNAME(CNAME(target)) if record.name == *name => Some(LowerName::new(target)),
        _ => None,
    })
}

fn is_of_chain(chain: &[LowerName], record: &Record) -> bool {
    let owner = LowerName::new(&record.name);
    // A DNAME record, and its signature, stand above the names that it redirects.
    let may_stand_above = matches!(record.record_type(), RecordType::DNAME | RecordType::RRSIG);
    chain
        .iter()
        .any(|name| *name == owner || may_stand_above && owner.zone_of(name))
}

/// Denials of existence name other names by their nature; everything else in the authority
/// section stands at or above a name of the chain.
fn may_testify(chain: &[LowerName], record: &Record) -> bool {
    let is_denial = matches!(
        record.record_type(),
        RecordType::NSEC | RecordType::NSEC3 | RecordType::RRSIG
    );
    let owner = LowerName::new(&record.name);
    is_denial || chain.iter().any(|name| owner.zone_of(name))
}

/// Additional records are hints about names that the rest of the answer mentions, or about their
/// zone.
fn is_near(chain: &[LowerName], answers: &[Record], authorities: &[Record], owner: &Name) -> bool {
    let lower = LowerName::new(owner);
    let mut mentioned = answers.iter().chain(authorities).filter_map(target);
    chain.contains(&lower)
        || mentioned.any(|target| target == owner)
        || authorities
            .iter()
            .any(|record| !record.name.is_root() && record.name.zone_of(owner))
}

/// The host that a record points to.
fn target(record: &Record) -> Option<&Name> {
    match &record.data {
        RData::MX(mx) => Some(&mx.exchange),
        RData::NS(ns) => Some(&ns.0),
        RData::SRV(srv) => Some(&srv.target),
        RData::SVCB(svcb) => Some(&svcb.target_name),
        RData::HTTPS(https) => Some(&https.0.target_name),
        _ => None,
    }
}

/// The end of a chain that the upstream did not follow: an alias without the record behind it,
/// and without a SOA record that says that there is none.
pub(crate) fn dangling_target(question: &Question, answer: &Answer) -> Option<LowerName> {
    let is_whole = answer.rcode != ResponseCode::NoError
        || answer.has(question.qtype)
        || answer.negative_ttl().is_some();
    if question.asks_alias() || is_whole {
        return None;
    }
    let chain = chain(question, &answer.answers).ok()?;
    (chain.len() > 1).then(|| chain[chain.len() - 1].clone())
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, MX, NS};

    use super::*;
    use crate::testing::{self, name};

    fn record(owner: &str, data: RData) -> Record {
        Record::from_rdata(name(owner), 300, data)
    }

    fn a(owner: &str) -> Record {
        record(owner, RData::A(A::new(192, 0, 2, 1)))
    }

    fn cname(owner: &str, target: &str) -> Record {
        record(owner, RData::CNAME(CNAME(name(target))))
    }

    fn ns(owner: &str, target: &str) -> Record {
        record(owner, RData::NS(NS(name(target))))
    }

    fn question(qtype: RecordType) -> Question {
        testing::question("www.example.", qtype)
    }

    fn answers(records: Vec<Record>) -> Answer {
        Answer {
            answers: records,
            ..Answer::empty(ResponseCode::NoError)
        }
    }

    #[test]
    fn only_the_chain_is_believed() {
        let chain = vec![cname("WWW.example.", "web.example."), a("web.example.")];
        let mut lies = chain.clone();
        lies.extend([a("bank.example."), a("example.")]);
        let mut answer = answers(lies);
        scrub(&question(RecordType::A), &mut answer, 1000).unwrap();
        assert_eq!(answer.answers, chain);
    }

    #[test]
    fn authority_stands_above_and_additional_is_mentioned() {
        let mut answer = answers(vec![record(
            "www.example.",
            RData::MX(MX::new(1, name("mail.other."))),
        )]);
        answer.authorities = vec![
            ns("example.", "ns.elsewhere."),
            ns("bank.", "evil.example."),
        ];
        answer.additionals = vec![
            a("mail.other."),
            a("ns.elsewhere."),
            a("below.example."),
            a("bank."),
            a("evil.bank."),
        ];
        scrub(&question(RecordType::MX), &mut answer, 1000).unwrap();
        assert_eq!(answer.authorities, [ns("example.", "ns.elsewhere.")]);
        let kept = [a("mail.other."), a("ns.elsewhere."), a("below.example.")];
        assert_eq!(answer.additionals, kept);
    }

    #[test]
    fn circles_and_endless_chains_are_no_answers() {
        let circle = vec![
            cname("www.example.", "b.example."),
            cname("b.example.", "www.example."),
        ];
        let scrubbed = |records, qtype| scrub(&question(qtype), &mut answers(records), 1000);
        assert_eq!(scrubbed(circle.clone(), RecordType::A), Err(Unusable::Loop));
        assert_eq!(scrubbed(circle, RecordType::CNAME), Ok(()));
        let long = |length: usize| {
            let mut records = vec![cname("www.example.", "n0.example.")];
            records.extend(
                (0..length)
                    .map(|n| cname(&format!("n{n}.example."), &format!("n{}.example.", n + 1))),
            );
            records
        };
        assert_eq!(scrubbed(long(CHAIN_MAX - 1), RecordType::A), Ok(()));
        let endless = scrubbed(long(CHAIN_MAX), RecordType::A);
        assert_eq!(endless, Err(Unusable::LongChain));
    }

    #[test]
    fn rfc2181_section_8_ttls_are_bounded() {
        let mut answer = answers(vec![
            a("www.example."),
            a("www.example."),
            a("www.example."),
        ]);
        answer.answers[1].ttl = u32::MAX;
        answer.answers[2].ttl = 2_000;
        scrub(&question(RecordType::A), &mut answer, 1000).unwrap();
        let ttls: Vec<u32> = answer.answers.iter().map(|r| r.ttl).collect();
        assert_eq!(ttls, [300, 0, 1000]);
    }

    #[test]
    fn a_chain_that_was_not_followed_has_an_end() {
        let mut answer = answers(vec![cname("www.example.", "web.example.")]);
        let end = dangling_target(&question(RecordType::A), &answer);
        assert_eq!(end, Some(LowerName::new(&name("web.example."))));
        assert_eq!(dangling_target(&question(RecordType::CNAME), &answer), None);
        answer.answers.push(a("web.example."));
        assert_eq!(dangling_target(&question(RecordType::A), &answer), None);
    }
}
