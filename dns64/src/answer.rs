//! A question and its answer, without the transport they came by.

use std::fmt;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{LowerName, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// What is asked of an upstream, and the key under which its answer is kept. The class is IN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, in lower case.
    pub name: LowerName,
    /// The type.
    pub qtype: RecordType,
    /// The DO bit (RFC 3225): signatures are wanted.
    pub dnssec_ok: bool,
    /// The CD bit: the upstream shall not validate.
    pub checking_disabled: bool,
}

impl Question {
    /// The same question for another type.
    pub fn with_type(&self, qtype: RecordType) -> Question {
        Question {
            qtype,
            ..self.clone()
        }
    }

    /// Whether an alias is what is asked for: its target is of no interest then.
    pub fn asks_alias(&self) -> bool {
        matches!(self.qtype, RecordType::CNAME | RecordType::ANY)
    }

    /// The same question for another name.
    pub fn with_name(&self, name: LowerName) -> Question {
        Question {
            name,
            ..self.clone()
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.qtype)
    }
}

/// A whole answer: header bits that matter and the three sections.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The response code, extended ones included.
    pub rcode: ResponseCode,
    /// The AD bit: the upstream, or we, found all of it authentic.
    pub authentic: bool,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section.
    pub authorities: Vec<Record>,
    /// Additional section without the OPT record.
    pub additionals: Vec<Record>,
    /// What RFC 8914 lets us say about it.
    pub extended_errors: Vec<ExtendedError>,
}

impl Answer {
    /// NOERROR or another code without records.
    pub fn empty(rcode: ResponseCode) -> Answer {
        Answer {
            rcode,
            authentic: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            extended_errors: Vec::new(),
        }
    }

    /// SERVFAIL with its reason.
    pub fn failure(code: ExtendedErrorCode, text: impl Into<String>) -> Answer {
        Answer {
            extended_errors: vec![ExtendedError::new(code, text)],
            ..Answer::empty(ResponseCode::ServFail)
        }
    }

    /// Takes over an upstream's message.
    pub fn from_message(message: Message) -> Answer {
        let extended_errors = message.edns.iter().flat_map(|edns| {
            let options = edns.options().as_ref().iter();
            options.filter_map(|(_, option)| ExtendedError::from_option(option))
        });
        let mut answer = Answer {
            rcode: message.metadata.response_code,
            authentic: message.metadata.authentic_data,
            extended_errors: extended_errors.take(EXTENDED_ERRORS_MAX).collect(),
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        };
        answer.limit_soa_ttl();
        answer
    }

    /// RFC 2308 section 3: the TTL of the SOA record with an absence is the lesser of its own and
    /// its minimum field, so that a cache behind this one keeps the absence no longer.
    fn limit_soa_ttl(&mut self) {
        for record in &mut self.authorities {
            if let RData::SOA(soa) = &record.data {
                record.ttl = record.ttl.min(soa.minimum);
            }
        }
    }

    /// Whether the answer section holds a record of this type.
    pub fn has(&self, qtype: RecordType) -> bool {
        self.answers.iter().any(|r| r.record_type() == qtype)
    }

    /// NOERROR or NXDOMAIN: the name was looked up. Anything else is a failure.
    pub fn is_success(&self) -> bool {
        matches!(
            self.rcode,
            ResponseCode::NoError | ResponseCode::NXDomain | ResponseCode::YXDomain
        )
    }

    /// Whether the upstream said that validation failed: RFC 8914 codes 5 to 12, and 25 and 27 of
    /// its registry.
    pub fn is_bogus(&self) -> bool {
        self.rcode == ResponseCode::ServFail
            && self
                .extended_errors
                .iter()
                .any(|e| matches!(e.code, 5..=12 | 25 | 27))
    }

    /// Whether it is the failure of reaching anybody.
    pub fn is_unreachable(&self) -> bool {
        let code = ExtendedErrorCode::NoReachableAuthority as u16;
        self.rcode == ResponseCode::ServFail && self.extended_errors.iter().any(|e| e.code == code)
    }

    /// How long the absence may be kept: the lesser of the SOA record's TTL and its minimum
    /// field (RFC 2308 section 5); nothing without a SOA record.
    pub fn negative_ttl(&self) -> Option<u32> {
        self.authorities.iter().find_map(|r| match &r.data {
            RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
            _ => None,
        })
    }

    /// How long the answer to this question may be kept, in seconds: zero means not at all.
    pub fn ttl(&self, qtype: RecordType) -> u32 {
        let positive = self.answers.iter().map(|r| r.ttl).min();
        // Too long an alias stays too long while its DNAME record is there.
        let is_whole = qtype == RecordType::ANY || self.rcode == ResponseCode::YXDomain;
        if self.has(qtype) || is_whole && positive.is_some() {
            return positive.unwrap_or(0);
        }
        // RFC 2308 section 5: without a SOA record an absence is not kept.
        let negative = self.negative_ttl().unwrap_or(0);
        positive.map_or(negative, |positive| positive.min(negative))
    }

    /// The answer as it is `seconds` later.
    pub fn aged(&self, seconds: u32) -> Answer {
        let mut answer = self.clone();
        for record in answer.records_mut() {
            record.ttl = record.ttl.saturating_sub(seconds);
        }
        answer
    }

    /// A chain of aliases, and what was found at its end. What proves that an alias could be made
    /// from a wildcard stays (RFC 4035 section 3.1.3.3).
    pub fn followed_by(mut self, next: Answer) -> Answer {
        self.answers.extend(next.answers);
        self.authorities.retain(is_denial);
        self.authorities.extend(next.authorities);
        self.extended_errors.extend(next.extended_errors);
        self.extended_errors.truncate(EXTENDED_ERRORS_MAX);
        Answer {
            rcode: next.rcode,
            authentic: self.authentic && next.authentic,
            additionals: next.additionals,
            ..self
        }
    }

    /// The answer with this TTL in all its records.
    pub fn with_ttl(&self, seconds: u32) -> Answer {
        let mut answer = self.clone();
        for record in answer.records_mut() {
            record.ttl = seconds;
        }
        answer
    }

    fn records_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        let Answer {
            answers,
            authorities,
            additionals,
            ..
        } = self;
        answers.iter_mut().chain(authorities).chain(additionals)
    }
}

/// The response code as dig and the RFCs write it.
pub fn rcode_name(rcode: ResponseCode) -> String {
    match rcode {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => format!("{other} (response code {})", u16::from(other)),
    }
}

/// Whether a record is a signature over records of this type.
pub fn is_signature_over(record: &Record, covered: RecordType) -> bool {
    if record.record_type() != RecordType::RRSIG {
        return false;
    }
    let mut octets = Vec::new();
    let emitted = record.data.emit(&mut BinEncoder::new(&mut octets));
    // RFC 4034 section 3.1: the first two octets are the type covered.
    emitted.is_ok() && octets.get(..2) == Some(&u16::from(covered).to_be_bytes())
}

/// Whether a record denies that names exist, or is a signature over one that does.
fn is_denial(record: &Record) -> bool {
    let denials = [RecordType::NSEC, RecordType::NSEC3];
    denials.contains(&record.record_type()) || denials.iter().any(|t| is_signature_over(record, *t))
}

/// An extended DNS error (RFC 8914).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedError {
    /// The INFO-CODE.
    pub code: u16,
    /// The EXTRA-TEXT.
    pub text: String,
}

/// The INFO-CODEs that this server gives (RFC 8914 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ExtendedErrorCode {
    /// Any other reason.
    Other = 0,
    /// An expired answer, since no fresh one could be had (RFC 8767).
    StaleAnswer = 3,
    /// Validation failed.
    DnssecBogus = 6,
    /// No key that a trust anchor or DS record means.
    DnskeyMissing = 9,
    /// A failure remembered (RFC 9520).
    CachedError = 13,
    /// The translator cannot take traffic yet.
    NotReady = 14,
    /// As [`ExtendedErrorCode::StaleAnswer`], for a name that did not exist.
    StaleNxDomain = 19,
    /// The client's network is not served.
    Prohibited = 18,
    /// Not asked for recursion, and nothing here is authoritative.
    NotAuthoritative = 20,
    /// No upstream answered.
    NoReachableAuthority = 22,
}

/// The EDNS option code of extended errors.
const EXTENDED_ERROR_OPTION: u16 = 15;
/// Extended errors of an upstream's that are passed on.
const EXTENDED_ERRORS_MAX: usize = 4;
/// Characters of each one's text: a longer one would make answers too long for a datagram
/// (RFC 8914 section 2).
const EXTRA_TEXT_MAX: usize = 96;

impl ExtendedError {
    /// A code with its text.
    pub fn new(code: ExtendedErrorCode, text: impl Into<String>) -> ExtendedError {
        ExtendedError {
            code: code as u16,
            text: text.into(),
        }
    }

    /// The option that carries it (section 2).
    pub fn to_option(&self) -> EdnsOption {
        let mut data = self.code.to_be_bytes().to_vec();
        data.extend_from_slice(self.text.as_bytes());
        EdnsOption::Unknown(EXTENDED_ERROR_OPTION, data)
    }

    fn from_option(option: &EdnsOption) -> Option<ExtendedError> {
        match option {
            EdnsOption::Unknown(EXTENDED_ERROR_OPTION, data) => {
                let (code, text) = data.split_first_chunk::<2>()?;
                // A NUL may end it, and what controls a terminal has no place in it.
                let text = String::from_utf8_lossy(text);
                let plain = text.chars().filter(|c| !c.is_control());
                Some(ExtendedError {
                    code: u16::from_be_bytes(*code),
                    text: plain.take(EXTRA_TEXT_MAX).collect(),
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[test]
    fn rfc8914_section_2_an_upstreams_text_is_short_and_plain() {
        let option = |text: &[u8]| {
            let octets = [&[0, 6], text].concat();
            EdnsOption::Unknown(EXTENDED_ERROR_OPTION, octets)
        };
        for (given, kept) in [
            (&b"no key"[..], "no key"),
            (b"no key\0", "no key"),
            (b"\x1b[2Jno\r\nkey", "[2Jnokey"),
            (b"", ""),
            (&[b'x'; 5000], &"x".repeat(EXTRA_TEXT_MAX)),
        ] {
            let error = ExtendedError::from_option(&option(given)).unwrap();
            assert_eq!((error.code, error.text.as_str()), (6, kept));
        }
        let broken = EdnsOption::Unknown(EXTENDED_ERROR_OPTION, vec![0]);
        assert_eq!(ExtendedError::from_option(&broken), None);
    }

    #[test]
    fn too_long_an_alias_is_kept_as_long_as_its_dname_record() {
        let dname = RData::Unknown {
            code: RecordType::DNAME,
            rdata: hickory_proto::rr::rdata::NULL::with(vec![0]),
        };
        let mut answer = Answer::empty(ResponseCode::YXDomain);
        assert_eq!(answer.ttl(RecordType::A), 0);
        answer.answers = vec![Record::from_rdata(name("old.test."), 60, dname)];
        assert_eq!(answer.ttl(RecordType::A), 60);
        answer.rcode = ResponseCode::NoError;
        assert_eq!(
            answer.ttl(RecordType::A),
            0,
            "an absence without a SOA record"
        );
    }

    #[test]
    fn failed_validation_has_many_codes() {
        for (code, is_bogus) in [
            (4, false),
            (5, true),
            (12, true),
            (13, false),
            (25, true),
            (27, true),
        ] {
            let mut answer = Answer::empty(ResponseCode::ServFail);
            answer.extended_errors = vec![ExtendedError {
                code,
                text: String::new(),
            }];
            assert_eq!(answer.is_bogus(), is_bogus, "{code}");
        }
    }
}
