//! Aliases made by a DNAME record (RFC 6672).
//!
//! The record is signed, the CNAME record that a server makes of it is not (section 5.3.1): only
//! the first is given to hickory, and the second made here from what was validated. hickory 0.26
//! knows DNAME as data without a meaning.

use hickory_proto::ProtoError;
use hickory_proto::dnssec::Proof;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, NULL};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinDecodable;

use super::wildcard;
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

/// Whether the record was made from a wildcard. A wildcard stands for the name asked for, never
/// for one above it (RFC 4592 section 3.3.1), and no name is redirected by its own DNAME record
/// (RFC 6672 section 2.3): whoever says this lies.
pub(super) fn is_from_wildcard(message: &Message, question: &Question) -> bool {
    redirects(question, &message.answers) && wildcard::expansions(message).next().is_some()
}

/// The answer with the CNAME record that section 3.1 makes from such a record.
///
/// # Errors
/// The target cannot be read.
pub(super) fn with_alias(mut message: Message, question: &Question) -> Result<Message, ProtoError> {
    let Some(dname) = redirection(question, &message.answers) else {
        return Ok(message);
    };
    let name = Name::from(question.name.clone());
    let target = target(dname)?;
    let prefix = name.iter().take(labels(&name) - labels(&dname.name));
    // Too long a name has no alias (section 2.2).
    match Name::from_labels(prefix).and_then(|prefix| prefix.append_domain(&target)) {
        Ok(target) => {
            let mut alias = Record::from_rdata(name, dname.ttl, RData::CNAME(CNAME(target)));
            alias.proof = dname.proof;
            message.answers.push(alias);
        }
        Err(_) => message.metadata.response_code = ResponseCode::YXDomain,
    }
    Ok(message)
}

fn redirection<'a>(question: &Question, answers: &'a [Record]) -> Option<&'a Record> {
    let name: &Name = &question.name;
    answers.iter().find(|record| {
        record.record_type() == RecordType::DNAME
            && record.name != *name
            && record.name.zone_of(name)
    })
}

/// Labels below the root. hickory's own number leaves out an asterisk in front, as signatures do.
fn labels(name: &Name) -> usize {
    name.iter().len()
}

fn target(record: &Record) -> Result<Name, ProtoError> {
    match &record.data {
        RData::Unknown {
            code: RecordType::DNAME,
            rdata,
        } => Ok(Name::from_bytes(&rdata.anything)?),
        _ => Err(ProtoError::from("no DNAME record")),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::serialize::binary::BinEncodable;

    use super::*;
    use crate::testing::{name, question};

    fn redirected(owner: &str, target: &str, asked: &str) -> Message {
        let octets = name(target).to_bytes();
        let data = RData::Unknown {
            code: RecordType::DNAME,
            rdata: NULL::with(octets.unwrap()),
        };
        let mut message = Message::query();
        message.answers = vec![Record::from_rdata(name(owner), 60, data)];
        with_alias(message, &question(asked, RecordType::A)).unwrap()
    }

    #[test]
    fn rfc6672_section_2_2_the_labels_in_front_stay() {
        for (owner, asked, alias) in [
            ("old.test.", "www.old.test.", Some("www.new.")),
            ("old.test.", "a.b.old.test.", Some("a.b.new.")),
            ("old.test.", "*.old.test.", Some("*.new.")),
            ("old.test.", "*.b.old.test.", Some("*.b.new.")),
            ("*.old.test.", "a.*.old.test.", Some("a.new.")),
            ("old.test.", "old.test.", None),
            ("*.old.test.", "a.old.test.", None),
        ] {
            let message = redirected(owner, "new.", asked);
            let made = message.answers.get(1).map(|record| record.data.to_string());
            assert_eq!(made.as_deref(), alias, "{owner} {asked}");
        }
    }

    #[test]
    fn rfc6672_section_2_2_too_long_a_name_is_yxdomain() {
        let long = [63; 3].map(|len| "l".repeat(len)).join(".");
        let asked = |len| format!("{}.old.test.", "h".repeat(len));
        // 255 octets on the wire: 62 + 1, three times 64, no more than the root's one.
        let message = redirected("old.test.", &format!("{long}."), &asked(61));
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        assert_eq!(message.answers.len(), 2);
        let message = redirected("old.test.", &format!("{long}."), &asked(62));
        assert_eq!(message.metadata.response_code, ResponseCode::YXDomain);
        assert_eq!(message.answers.len(), 1);
    }
}
