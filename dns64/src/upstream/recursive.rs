//! No upstream at all: hickory's recursor asks the authoritative servers, from the root down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use hickory_net::NetError;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::recursor::{
    AuthorityData, DnssecPolicy, Recursor, RecursorError, RecursorOptions,
};
use ipnet::IpNet;

use crate::answer::{Answer, ExtendedErrorCode, Question};
use crate::asker::Asked;
use crate::config::{Config, Network, Recursive};
use crate::metrics::{Metrics, add};

/// Answers that hickory keeps beside ours, for the servers of zones and their addresses.
const RESPONSES_MAX: u64 = 20_000;
/// Zones whose servers it keeps.
const ZONES_MAX: usize = 4_096;
/// The size of UDP answers (DNS flag day 2020).
const EDNS_PAYLOAD: u16 = super::UDP_PAYLOAD_MAX;

/// hickory's recursor, which gives errors where we want answers.
pub(crate) struct Recursion {
    recursor: Recursor<TokioRuntimeProvider>,
    timeout: Duration,
}

impl Recursion {
    /// # Errors
    /// What hickory does not like about its options; never with ours.
    pub(crate) fn new(config: &Config, recursive: &Recursive) -> Result<Recursion, String> {
        let builtin = ROOT_SERVERS.iter().flat_map(|(v4, v6)| {
            [
                IpAddr::V4(Ipv4Addr::from(*v4)),
                IpAddr::V6(Ipv6Addr::from(*v6)),
            ]
        });
        let roots: Vec<IpAddr> = match recursive.root_hints.as_slice() {
            [] => builtin.collect(),
            hints => hints.to_vec(),
        };
        let options = RecursorOptions {
            ns_cache_size: ZONES_MAX,
            response_cache_size: RESPONSES_MAX,
            case_randomization: true,
            edns_payload_len: EDNS_PAYLOAD,
            allow_server: recursive
                .servers_allowed
                .iter()
                .filter_map(ip_net)
                .collect(),
            ..RecursorOptions::default()
        };
        let provider = TokioRuntimeProvider::default();
        // Signatures are asked for and passed on; `Validator` judges them.
        let policy = DnssecPolicy::ValidationDisabled;
        let recursor = Recursor::new(&roots, policy, None, options, provider);
        Ok(Recursion {
            recursor: recursor.map_err(|error| error.to_string())?,
            timeout: config.timeouts.query,
        })
    }

    /// Asks until somebody who is authoritative answers, or says that there is nothing.
    pub(crate) async fn ask(&self, question: &Question, metrics: &Metrics) -> Asked {
        add(&metrics.upstream_queries);
        let answer = match tokio::time::timeout(self.timeout, self.find(question)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                add(&metrics.upstream_errors);
                tracing::debug!(%question, %error, "recursion failed");
                failure(&error)
            }
            Err(_) => {
                add(&metrics.upstream_errors);
                let text = "the servers of the name did not answer in time";
                Answer::failure(ExtendedErrorCode::NoReachableAuthority, text)
            }
        };
        Asked {
            // A server that does not answer is one of the name's.
            is_unreachable: false,
            answer: Answer {
                authentic: false,
                ..answer
            },
        }
    }

    /// hickory tells an absence as an error that names nothing but who denies it: the aliases on
    /// the way there are lost, and with them what a proof of the absence is about. So the alias
    /// is asked for where the denial may be that of another name; [`Asker`](crate::asker::Asker)
    /// follows it.
    async fn find(&self, question: &Question) -> Result<Answer, RecursorError> {
        let negative = match self.resolve(question).await {
            Err(RecursorError::Negative(negative)) => absence(negative),
            resolved => return Ok(Answer::from_message(resolved?)),
        };
        if question.asks_alias() || is_denial_of(question, &negative) {
            return Ok(negative);
        }
        match self.resolve(&question.with_type(RecordType::CNAME)).await {
            Ok(alias) => Ok(Answer::from_message(alias)),
            Err(RecursorError::Negative(_)) => Ok(negative),
            Err(error) => Err(error),
        }
    }

    async fn resolve(&self, question: &Question) -> Result<Message, RecursorError> {
        let query = Query::query(Name::from(question.name.clone()), question.qtype);
        let now = Instant::now();
        self.recursor.resolve(query, now, question.dnssec_ok).await
    }
}

/// Whether an absence is surely that of the name asked for: in a signed zone its own NSEC record
/// says so. In one without signatures an alias within the zone does not matter: nobody proves
/// anything, and the zone's SOA record is that of both.
fn is_denial_of(question: &Question, negative: &Answer) -> bool {
    let name: &Name = &question.name;
    let mut authorities = negative.authorities.iter();
    let is_signed = |r: &Record| r.record_type() == RecordType::RRSIG;
    if negative.authorities.iter().any(is_signed) {
        return authorities.any(|r| r.record_type() == RecordType::NSEC && r.name == *name);
    }
    authorities.any(|r| r.record_type() == RecordType::SOA && r.name.zone_of(name))
}

/// NXDOMAIN, or NOERROR without records, with its proof.
fn absence(negative: AuthorityData) -> Answer {
    let rcode = match negative.is_nx_domain() {
        true => ResponseCode::NXDomain,
        false => ResponseCode::NoError,
    };
    let mut authorities: Vec<Record> = negative
        .authorities
        .iter()
        .flat_map(|r| r.iter())
        .cloned()
        .collect();
    if let Some(soa) = negative.soa {
        let soa = soa.into_record_of_rdata();
        if !authorities.contains(&soa) {
            authorities.push(soa);
        }
    }
    Answer {
        authorities,
        ..Answer::empty(rcode)
    }
}

fn failure(error: &RecursorError) -> Answer {
    match error {
        RecursorError::Net(NetError::Dns(hickory_net::DnsError::ResponseCode(rcode))) => {
            Answer::empty(*rcode)
        }
        error => Answer::failure(ExtendedErrorCode::NoReachableAuthority, error.to_string()),
    }
}

fn ip_net(network: &Network) -> Option<IpNet> {
    IpNet::new(network.addr, network.length).ok()
}

/// The root servers' addresses, a to m (IANA, <https://www.iana.org/domains/root/servers>).
const ROOT_SERVERS: [([u8; 4], [u16; 8]); 13] = [
    ([198, 41, 0, 4], [0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30]),
    ([170, 247, 170, 2], [0x2801, 0x1b8, 0x10, 0, 0, 0, 0, 0xb]),
    ([192, 33, 4, 12], [0x2001, 0x500, 2, 0, 0, 0, 0, 0xc]),
    ([199, 7, 91, 13], [0x2001, 0x500, 0x2d, 0, 0, 0, 0, 0xd]),
    ([192, 203, 230, 10], [0x2001, 0x500, 0xa8, 0, 0, 0, 0, 0xe]),
    ([192, 5, 5, 241], [0x2001, 0x500, 0x2f, 0, 0, 0, 0, 0xf]),
    ([192, 112, 36, 4], [0x2001, 0x500, 0x12, 0, 0, 0, 0, 0xd0d]),
    ([198, 97, 190, 53], [0x2001, 0x500, 1, 0, 0, 0, 0, 0x53]),
    ([192, 36, 148, 17], [0x2001, 0x7fe, 0, 0, 0, 0, 0, 0x53]),
    ([192, 58, 128, 30], [0x2001, 0x503, 0xc27, 0, 0, 0, 2, 0x30]),
    ([193, 0, 14, 129], [0x2001, 0x7fd, 0, 0, 0, 0, 0, 1]),
    ([199, 7, 83, 42], [0x2001, 0x500, 0x9f, 0, 0, 0, 0, 0x42]),
    ([202, 12, 27, 33], [0x2001, 0xdc3, 0, 0, 0, 0, 0, 0x35]),
];
