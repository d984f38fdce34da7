//! One question of a client from start to answer: local names, reverse names, synthesis.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{LowerName, Name, RData, RecordType};

use crate::answer::{Answer, ExtendedErrorCode, Question};
use crate::client_limits::ResponseRate;
use crate::clients::{ClientClass, Clients};
use crate::config::Config;
use crate::local_names;
use crate::metrics::Outcome;
use crate::resolver::{Kept, Resolver, described};
use crate::synthesis::{Mapping, Next, Policy};
use crate::trace::Trace;

/// The answering side of one configuration.
pub(crate) struct Responder {
    pub(crate) clients: Clients,
    pub(crate) response_rate: Option<ResponseRate>,
    /// By client class, from [`ClientClass::DEFAULT`] on.
    policies: Vec<Policy>,
    pub(crate) resolver: Arc<Resolver>,
    kept: Arc<Kept>,
}

/// A client's question, as far as the answer depends on it.
pub(crate) struct ClientQuestion {
    pub(crate) question: Question,
    pub(crate) class: ClientClass,
}

impl Responder {
    pub(crate) fn new(
        config: &Config,
        policies: Vec<Policy>,
        clients: Clients,
        resolver: Arc<Resolver>,
        kept: Arc<Kept>,
    ) -> Responder {
        Responder {
            clients,
            response_rate: config.response_rate,
            policies,
            resolver,
            kept,
        }
    }

    /// The policy for a class of clients, and whether it synthesises.
    fn policy(&self, class: ClientClass) -> (&Policy, bool) {
        let place = usize::from(class.0).checked_sub(usize::from(ClientClass::DEFAULT.0));
        let own = place.and_then(|place| self.policies.get(place));
        (own.unwrap_or(&self.policies[0]), own.is_some())
    }

    /// The answer to a client, and what it is counted as.
    pub(crate) async fn answer(
        &self,
        asked: ClientQuestion,
        trace: &mut Trace,
    ) -> (Answer, Outcome) {
        let ClientQuestion { question, class } = asked;
        // RFC 6147 section 5.5: DO and CD together mean that the client validates by itself.
        let validates = question.dnssec_ok && question.checking_disabled;
        let (policy, served) = self.policy(class);
        let synthesize = served && !validates;
        if let Some(answer) = local_names::answer(policy, &question, synthesize) {
            trace.step(|| format!("{} is answered here (RFC 8880)", question.name));
            let outcome = outcome_here(&answer);
            return (answer, outcome);
        }
        if question.qtype == RecordType::PTR
            && let Some(target) = policy.reverse_target(&question.name)
        {
            let answer = self.reverse(policy, &question, target, trace).await;
            let outcome = outcome_here(&answer);
            return (answer, outcome);
        }
        if question.qtype != RecordType::AAAA || !synthesize {
            if question.qtype == RecordType::AAAA {
                trace.step(|| match served {
                    true => "the client validates by itself (DO and CD): no synthesis".into(),
                    false => "no synthesis for this client's network".into(),
                });
            }
            let answer = self.resolver.look_up(&question, trace).await;
            let outcome = outcome_of(&answer, question.qtype);
            return (answer, outcome);
        }
        self.answer_aaaa(policy, question, trace).await
    }

    /// RFC 6147 sections 5.1 to 5.4.
    async fn answer_aaaa(
        &self,
        policy: &Policy,
        mut question: Question,
        trace: &mut Trace,
    ) -> (Answer, Outcome) {
        // CD without DO: the client will not validate, so what is synthesised has to be checked.
        question.checking_disabled = false;
        let (aaaa, a) = if policy.hides_aaaa(&question.name) {
            trace.step(|| "real AAAA records of this name count as missing".into());
            (None, None)
        } else {
            let (answer, a) = self.resolver.look_up_aaaa(&question, trace).await;
            match policy.after_aaaa(answer) {
                Next::Answer(answer) => {
                    trace.step(|| no_synthesis(&answer));
                    let outcome = outcome_of(&answer, RecordType::AAAA);
                    return (answer, outcome);
                }
                Next::AskA(answer) => (Some(answer), a),
            }
        };
        let a = match a {
            Some(a) => a,
            None => {
                let question = question.with_type(RecordType::A);
                self.resolver.look_up(&question, trace).await
            }
        };
        let (answer, mapping) = policy.assemble(aaaa.as_ref(), a);
        let why_not = match mapping {
            Mapping::Synthesized => None,
            Mapping::KeptBack => {
                Some("its A records are not mapped (dns64.exclude_a, nat64.wkp_strict)")
            }
            Mapping::Nothing => Some("no A record to synthesise from"),
        };
        if let Some(why_not) = why_not {
            trace.step(|| why_not.into());
            let outcome = outcome_of(&answer, RecordType::AAAA);
            return (answer, outcome);
        }
        if !self.kept.ready.load(Ordering::Relaxed) {
            trace.step(|| "the translator is not ready: no synthesis".into());
            let text = "the NAT64 translator is not ready";
            let refusal = Answer::failure(ExtendedErrorCode::NotReady, text);
            return (refusal, Outcome::NotReady);
        }
        trace.step(|| format!("synthesised: {}", addresses(&answer)));
        (answer, Outcome::Synthesized)
    }

    /// RFC 6147 section 5.3.1: a CNAME record into in-addr.arpa, with what is found there.
    async fn reverse(
        &self,
        policy: &Policy,
        question: &Question,
        target: Name,
        trace: &mut Trace,
    ) -> Answer {
        trace.step(|| format!("{} is under Pref64: CNAME to {target}", question.name));
        let there = question.with_name(LowerName::new(&target));
        let mut answer = match local_names::answer(policy, &there, true) {
            Some(answer) => answer,
            None => self.resolver.look_up(&there, trace).await,
        };
        let cname = Policy::reverse_cname(&question.name, &target);
        answer.answers.insert(0, cname);
        answer.authentic = false;
        answer
    }
}

/// Why the answer to the AAAA question goes to the client as it is.
fn no_synthesis(answer: &Answer) -> String {
    match answer.rcode {
        ResponseCode::NoError => "it has AAAA records of its own: no synthesis".to_owned(),
        ResponseCode::NXDomain => "the name does not exist: no synthesis".to_owned(),
        _ => format!("no synthesis: {}", described(answer)),
    }
}

/// As [`outcome_of`], for what is answered here.
fn outcome_here(answer: &Answer) -> Outcome {
    match answer.rcode {
        ResponseCode::NoError => Outcome::Local,
        ResponseCode::NXDomain => Outcome::NxDomain,
        _ => Outcome::ServFail,
    }
}

fn outcome_of(answer: &Answer, qtype: RecordType) -> Outcome {
    match answer.rcode {
        ResponseCode::NoError if answer.has(qtype) => Outcome::Answered,
        ResponseCode::NoError if qtype == RecordType::ANY => Outcome::Answered,
        ResponseCode::NoError => Outcome::NoData,
        ResponseCode::NXDomain => Outcome::NxDomain,
        _ => Outcome::ServFail,
    }
}

fn addresses(answer: &Answer) -> String {
    let aaaa = answer.answers.iter().filter_map(|r| match &r.data {
        RData::AAAA(ip) => Some(format!("{} (TTL {})", ip.0, r.ttl)),
        _ => None,
    });
    aaaa.collect::<Vec<String>>().join(", ")
}
