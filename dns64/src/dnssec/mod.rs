//! DNSSEC validation, before anything is answered or synthesised (RFC 6147 section 5.5).
//!
//! hickory's validator asks for what it needs through [`Source`], so that keys and DS records are
//! cached and merged as all questions are. It takes keys for trust anchors; an operator has DS
//! records: [`Validator::handle`] finds the keys that these mean.

mod anchor;
mod dname;
mod nsec3;
mod wildcard;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use hickory_net::dnssec::DnssecDnsHandle;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::{DnsError, DnsHandle, NetError};
use hickory_proto::dnssec::rdata::DNSSECRData;
use hickory_proto::dnssec::{Proof, TrustAnchors};
use hickory_proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, Message, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use tokio::sync::Mutex;

pub use anchor::TrustAnchor;

use crate::answer::{Answer, ExtendedErrorCode, Question};
use crate::asker::{Asked, Asker};
use wildcard::Denial;

/// How long the keys behind trust anchors are used before they are looked at again.
const ANCHOR_LIFE: Duration = Duration::from_secs(3600);
/// How long to wait before a key that was not found is looked for again.
const ANCHOR_RETRY: Duration = Duration::from_secs(5);
/// hickory keeps so many proofs.
const PROOFS_MAX: usize = 65_536;
/// All questions for one proof: a chain from the root is some ten of them.
const VALIDATION_MAX: Duration = Duration::from_secs(10);

/// Aliases followed from the name asked for.
const LINKS_MAX: usize = 16;

type Handle = DnssecDnsHandle<Source>;

/// Checks answers against signatures, from the trust anchors down.
pub(crate) struct Validator {
    asker: Arc<Asker>,
    /// Empty: the root's keys, as hickory has them.
    anchors: Vec<TrustAnchor>,
    kept: Mutex<Option<KeptHandle>>,
}

struct KeptHandle {
    handle: Option<Handle>,
    /// By the server's clock.
    until: Duration,
}

impl Validator {
    pub(crate) fn new(asker: Arc<Asker>, anchors: Vec<TrustAnchor>) -> Validator {
        Validator {
            asker,
            anchors,
            kept: Mutex::new(None),
        }
    }

    /// Asks and validates. An answer that is not what its zone signed becomes SERVFAIL. hickory
    /// 0.26 takes the absence at the end of a chain of aliases for one of the name asked for, and
    /// so finds it bogus: each link is validated for itself.
    pub(crate) async fn ask(&self, question: &Question) -> Asked {
        let mut link = question.clone();
        let mut whole: Option<Answer> = None;
        for _ in 0..LINKS_MAX {
            let asked = self.ask_link(&link).await;
            let target = alias(&link, &asked.answer);
            let answer = match whole {
                Some(before) => before.followed_by(asked.answer),
                None => asked.answer,
            };
            match target {
                Some(target) if answer.is_success() => link.name = target,
                _ => {
                    return Asked {
                        answer,
                        is_unreachable: asked.is_unreachable,
                    };
                }
            }
            whole = Some(answer);
        }
        failed(ExtendedErrorCode::Other, "the name has too many aliases")
    }

    async fn ask_link(&self, question: &Question) -> Asked {
        if !self.is_anchored(&question.name) {
            let mut asked = self.asker.ask(question).await;
            asked.answer.authentic = false;
            return asked;
        }
        match tokio::time::timeout(VALIDATION_MAX, self.validate(question)).await {
            Ok(asked) => asked,
            Err(_) => unreachable("the chain of trust took too long to ask for"),
        }
    }

    async fn validate(&self, question: &Question) -> Asked {
        let Some(handle) = self.handle().await else {
            let text = "no key of the zone fits dns64.trust_anchors";
            return failed(ExtendedErrorCode::DnskeyMissing, text);
        };
        let query = Query::query(Name::from(question.name.clone()), question.qtype);
        let mut options = DnsRequestOptions::default();
        options.use_edns = true;
        options.edns_set_dnssec_ok = true;
        let response = handle.lookup(query, options).next().await;
        match response {
            Some(Ok(response)) => self.judge(question, response.into_message(), Proof::Secure),
            Some(Err(NetError::Dns(DnsError::Nsec {
                response,
                proof: Proof::Insecure,
                ..
            }))) if nsec3::is_of_the_zone(&response, &question.name) => {
                self.judge(question, response.into_message(), Proof::Insecure)
            }
            Some(Err(NetError::Dns(DnsError::Nsec { response, .. })))
                if is_known_better(question, &response) =>
            {
                self.judge(question, response.into_message(), Proof::Secure)
            }
            Some(Err(NetError::Dns(DnsError::Nsec { .. } | DnsError::DnssecBogus))) => {
                bogus("the absence is not proven")
            }
            Some(Err(error)) => failed_to_ask(&error),
            None => unreachable("no answer"),
        }
    }

    /// What hickory's marks on the records come to. `denial`: what its NSEC records are worth.
    fn judge(&self, question: &Question, message: Message, denial: Proof) -> Asked {
        let Ok(message) = dname::with_alias(message, question) else {
            return bogus("a DNAME record without a readable target");
        };
        let is_bogus = |record: &Record| {
            record.record_type() != RecordType::RRSIG
                && !matches!(record.proof, Proof::Secure | Proof::Insecure)
                && self.is_anchored(&LowerName::new(&record.name))
        };
        if message.answers.iter().any(is_bogus) {
            return bogus("a signature does not hold");
        }
        let is_insecure = denial == Proof::Insecure;
        let closer = wildcard::denial(&message);
        let is_unproven = closer == Denial::Missing && !is_insecure;
        if is_unproven || dname::is_from_wildcard(&message, question) {
            return bogus("nothing proves that a wildcard stands for the name");
        }
        if is_absence(question, &message) && is_denied_elsewhere(question, &message) {
            return bogus("the absence is not proven");
        }
        let is_authentic =
            is_authentic(question, &message) && closer == Denial::Whole && !is_insecure;
        answered(message, is_authentic)
    }

    /// Whether a trust anchor says anything about the name.
    fn is_anchored(&self, name: &LowerName) -> bool {
        self.anchors.is_empty() || self.anchors.iter().any(|a| a.zone.zone_of(name))
    }

    /// hickory's validator with the keys of the trust anchors; `None` if there are none.
    async fn handle(&self) -> Option<Handle> {
        let mut kept = self.kept.lock().await;
        let now = self.asker.now();
        match &*kept {
            Some(kept) if now < kept.until => return kept.handle.clone(),
            _ => {}
        }
        let found = match self.anchors.is_empty() {
            true => Some(TrustAnchors::default()),
            false => self.anchored_keys().await,
        };
        let handle = found.map(|anchors| {
            let source = Source(self.asker.clone());
            DnssecDnsHandle::with_trust_anchor(source, Arc::new(anchors))
                .validation_cache_size(PROOFS_MAX)
        });
        let life = match (&handle, self.anchors.is_empty()) {
            (None, _) => ANCHOR_RETRY,
            (Some(_), true) => Duration::MAX - now,
            (Some(_), false) => ANCHOR_LIFE,
        };
        *kept = Some(KeptHandle {
            handle: handle.clone(),
            until: now + life,
        });
        handle
    }

    /// The keys that the zones have now and the anchors mean. The digest in the anchor proves
    /// them; no signature is needed for that (RFC 4035 section 5).
    async fn anchored_keys(&self) -> Option<TrustAnchors> {
        let mut found = TrustAnchors::empty();
        let mut count = 0;
        for anchor in &self.anchors {
            let question = Question {
                name: anchor.zone.clone(),
                qtype: RecordType::DNSKEY,
                dnssec_ok: true,
                checking_disabled: true,
            };
            let answer = self.asker.ask_for_proof(&question).await;
            for record in &answer.answers {
                if let RData::DNSSEC(DNSSECRData::DNSKEY(key)) = &record.data
                    && anchor.covers(key)
                {
                    found.insert_with_name(key.public_key(), anchor.zone.clone());
                    count += 1;
                }
            }
        }
        if count == 0 {
            tracing::warn!("no key fits dns64.trust_anchors: nothing can be validated");
            return None;
        }
        Some(found)
    }
}

/// Whether what hickory found not to be proven is.
fn is_known_better(question: &Question, message: &Message) -> bool {
    let is_wildcards = !is_absence(question, message) && wildcard::is_proven(message);
    is_wildcards || dname::is_proven(message, question)
}

/// Whether the answer says that there is no such name or record.
fn is_absence(question: &Question, message: &Message) -> bool {
    let name: &Name = &question.name;
    let is_answer = |record: &Record| {
        let rtype = record.record_type();
        let is_asked = rtype == question.qtype || question.qtype == RecordType::ANY;
        record.name == *name && (is_asked || rtype == RecordType::CNAME)
    };
    !message.answers.iter().any(is_answer) && !dname::redirects(question, &message.answers)
}

/// Whether nothing but records of zones without signatures speaks for the absence, none of which
/// is about the name. hickory asks for no proof then.
fn is_denied_elsewhere(question: &Question, message: &Message) -> bool {
    let mut authorities = message.authorities.iter();
    let is_elsewhere = |r: &Record| r.proof == Proof::Insecure && !r.name.zone_of(&question.name);
    !message.authorities.is_empty() && authorities.all(is_elsewhere)
}

/// Whether all that the answer rests on is validly signed.
fn is_authentic(question: &Question, message: &Message) -> bool {
    let is_secure = |records: &[Record]| {
        let mut data = records
            .iter()
            .filter(|r| r.record_type() != RecordType::RRSIG)
            .peekable();
        data.peek().is_some() && data.all(|record| record.proof == Proof::Secure)
    };
    match message.answers.is_empty() {
        true => is_secure(&message.authorities) && !nsec3::is_opted_out(message, &question.name),
        false => is_secure(&message.answers),
    }
}

fn answered(message: Message, is_authentic: bool) -> Asked {
    let mut answer = Answer::from_message(message);
    answer.authentic = is_authentic;
    Asked {
        answer,
        is_unreachable: false,
    }
}

fn bogus(text: &str) -> Asked {
    failed(ExtendedErrorCode::DnssecBogus, text)
}

fn failed(code: ExtendedErrorCode, text: &str) -> Asked {
    Asked {
        answer: Answer::failure(code, text),
        is_unreachable: false,
    }
}

fn unreachable(text: &str) -> Asked {
    Asked {
        answer: Answer::failure(ExtendedErrorCode::NoReachableAuthority, text),
        is_unreachable: true,
    }
}

/// [`Source`] tells a failure as an error, so that hickory does not look for signatures in it.
fn failed_to_ask(error: &NetError) -> Asked {
    match error {
        NetError::Dns(DnsError::ResponseCode(rcode)) => Asked {
            answer: Answer::empty(*rcode),
            is_unreachable: false,
        },
        NetError::Timeout => unreachable("no upstream answered"),
        error => bogus(&error.to_string()),
    }
}

/// Where hickory's validator asks: the upstreams, which are told not to validate, and the cache.
#[derive(Clone)]
struct Source(Arc<Asker>);

impl DnsHandle for Source {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let asker = self.0.clone();
        Box::pin(stream::once(async move {
            let query = request.queries.first();
            let query = query.ok_or(NetError::Message("no question"))?.clone();
            let question = Question {
                name: LowerName::new(query.name()),
                qtype: query.query_type(),
                dnssec_ok: true,
                checking_disabled: true,
            };
            let answer = asker.ask_for_proof(&question).await;
            response(query, &first_link(&question, &answer))
        }))
    }
}

/// What the name is an alias of, if that is all the answer says of it.
fn alias(question: &Question, answer: &Answer) -> Option<LowerName> {
    if question.asks_alias() || answer.has(question.qtype) {
        return None;
    }
    let name: &Name = &question.name;
    answer.answers.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *name => Some(LowerName::new(&target.0)),
        _ => None,
    })
}

/// Of a chain of aliases only the first, with the proof that no closer name exists if it was
/// made from a wildcard; the rest is asked for by itself. Of an alias that a DNAME record makes,
/// only that record, since nothing else is signed.
fn first_link(question: &Question, answer: &Answer) -> Answer {
    let mut link = answer.clone();
    let name: &Name = &question.name;
    let is_alias = |r: &Record| r.record_type() == RecordType::CNAME && r.name == *name;
    if dname::redirects(question, &link.answers) {
        dname::keep_alone(question, &mut link.answers);
    } else if question.qtype == RecordType::CNAME || !link.answers.iter().any(is_alias) {
        return link;
    } else {
        link.answers.retain(|record| record.name == *name);
    }
    link.rcode = ResponseCode::NoError;
    link.additionals.clear();
    if !link.answers.iter().any(wildcard::is_made) {
        link.authorities.clear();
    }
    link
}

fn response(query: Query, answer: &Answer) -> Result<DnsResponse, NetError> {
    if !answer.is_success() {
        return Err(match answer.is_unreachable() {
            true => NetError::Timeout,
            false => DnsError::ResponseCode(answer.rcode).into(),
        });
    }
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = answer.rcode;
    message.add_query(query);
    message.answers.clone_from(&answer.answers);
    message.authorities.clone_from(&answer.authorities);
    message.additionals.clone_from(&answer.additionals);
    Ok(DnsResponse::from_message(message)?)
}

/// Takes out what only a client that asked for it with DO may see (RFC 3225 section 3).
pub(crate) fn without_signatures(mut answer: Answer, qtype: RecordType) -> Answer {
    let is_hidden = |record: &Record| {
        let rtype = record.record_type();
        let is_signature = matches!(
            rtype,
            RecordType::RRSIG | RecordType::NSEC | RecordType::NSEC3
        );
        is_signature && rtype != qtype && qtype != RecordType::ANY
    };
    for records in [
        &mut answer.answers,
        &mut answer.authorities,
        &mut answer.additionals,
    ] {
        records.retain(|record| !is_hidden(record));
    }
    answer
}
