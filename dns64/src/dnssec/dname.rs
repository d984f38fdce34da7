//! Aliases made by a DNAME record (RFC 6672).
//!
//! The record is signed, the CNAME record that a server makes of it is not (section 5.3.1): only
//! the first is given to hickory, and the second made here from what was validated. hickory 0.26
//! knows DNAME as data without a meaning.

use hickory_proto::dnssec::Proof;
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::{CNAME, NULL};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinDecodable;

use crate::answer::{Question, is_signature_over};

/// Whether a DNAME record above the name asked for makes it an alias.
pub(super) fn redirects(question: &Question, answers: &[Record]) -> bool {
    redirection(question, answers).is_some()
}

/// Takes out all but that record and its signatures, with its target in the form that is signed:
/// lower case (RFC 4034 section 6.2).
pub(super) fn keep_alone(question: &Question, answers: &mut Vec<Record>) {
    let Some(owner) = redirection(question, answers).map(|record| record.name.clone()) else {
        return;
    };
    answers.retain(|record| {
        let is_it = record.record_type() == RecordType::DNAME;
        record.name == owner && (is_it || is_signature_over(record, RecordType::DNAME))
    });
    for record in answers {
        if let RData::Unknown {
            code: RecordType::DNAME,
            rdata,
        } = &mut record.data
        {
            // Octets that say a label's length are at most 63, below all letters.
            *rdata = NULL::with(rdata.anything.to_ascii_lowercase());
        }
    }
}

/// Whether the answer is such a record, and validly signed.
pub(super) fn is_proven(message: &Message, question: &Question) -> bool {
    redirection(question, &message.answers).is_some_and(|record| record.proof == Proof::Secure)
}

/// The answer with the CNAME record that section 3.1 makes from such a record.
pub(super) fn with_alias(mut message: Message, question: &Question) -> Message {
    let Some(dname) = redirection(question, &message.answers) else {
        return message;
    };
    let made = target(dname).and_then(|target| {
        let name = Name::from(question.name.clone());
        let prefix = name.num_labels() - dname.name.num_labels();
        let labels: Vec<&[u8]> = name.iter().take(usize::from(prefix)).collect();
        // Too long a name has no alias (section 2.2); the server said YXDOMAIN then.
        let prefix = Name::from_labels(labels).ok()?;
        let target = prefix.append_domain(&target).ok()?;
        let mut alias = Record::from_rdata(name, dname.ttl, RData::CNAME(CNAME(target)));
        alias.proof = dname.proof;
        Some(alias)
    });
    message.answers.extend(made);
    message
}

fn redirection<'a>(question: &Question, answers: &'a [Record]) -> Option<&'a Record> {
    let name: &Name = &question.name;
    answers.iter().find(|record| {
        record.record_type() == RecordType::DNAME
            && record.name.num_labels() < name.num_labels()
            && record.name.zone_of(name)
    })
}

fn target(record: &Record) -> Option<Name> {
    match &record.data {
        RData::Unknown {
            code: RecordType::DNAME,
            rdata,
        } => Name::from_bytes(&rdata.anything).ok(),
        _ => None,
    }
}
