//! An authoritative name server for the lab's names: the upstream of the gateway's DNS64.
//!
//! A request handler of its own, not hickory's catalog: a table of a dozen records needs no more,
//! and its answers (CNAME chains inside the zone, NODATA and NXDOMAIN with the SOA) stay in sight.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{
    Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode,
};
use hickory_server::proto::rr::rdata::{CNAME, SOA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use super::super::topology::{NARROW, NATIVE, ROUTER1, ROUTER2, SERVER};

/// Time to live of every record.
const TTL_SECONDS: u32 = 60;
/// Negative time to live, in the SOA.
const NEGATIVE_TTL_SECONDS: u32 = 30;
/// Longest CNAME chain inside the zone.
const CNAME_DEPTH_MAX: usize = 8;
/// Largest answer by UDP.
const UDP_PAYLOAD_MAX: u16 = 1232;
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_BUFFER: usize = 4096;

/// One record of the zone.
enum Entry {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Alias(&'static str),
    Text(&'static str),
}

/// The zone's apex.
const APEX: &str = "lab.test.";

/// The lab's names.
const RECORDS: [(&str, Entry); 13] = [
    ("v4only.lab.test.", Entry::V4(SERVER)),
    ("www.lab.test.", Entry::Alias("v4only.lab.test.")),
    ("narrow.lab.test.", Entry::V4(NARROW)),
    ("dual.lab.test.", Entry::V4(SERVER)),
    ("dual.lab.test.", Entry::V6(NATIVE)),
    ("v6.lab.test.", Entry::V6(NATIVE)),
    // RFC 6147 section 5.1.4: an AAAA that nobody can reach counts as none.
    ("mapped.lab.test.", Entry::V4(SERVER)),
    ("mapped.lab.test.", Entry::V6(SERVER.to_ipv6_mapped())),
    ("router1.lab.test.", Entry::V4(ROUTER1)),
    ("router2.lab.test.", Entry::V4(ROUTER2)),
    (
        "nodata.lab.test.",
        Entry::Text("a name with neither A nor AAAA"),
    ),
    ("lost.lab.test.", Entry::Alias("nowhere.lab.test.")),
    ("lab.test.", Entry::Text("the zone of gate64 lab")),
];

/// Serves the zone over UDP and TCP.
pub(super) async fn serve(address: SocketAddr) -> io::Result<()> {
    let mut server = Server::new(Zone::new().map_err(io::Error::other)?);
    server.register_socket(UdpSocket::bind(address).await?);
    server.register_listener(TcpListener::bind(address).await?, TCP_IDLE, TCP_BUFFER);
    server.block_until_done().await.map_err(io::Error::other)
}

/// The zone's records, ready to be sent.
struct Zone {
    apex: Name,
    soa: Record,
    records: Vec<Record>,
}

/// What a question gets.
struct Answer<'a> {
    code: ResponseCode,
    records: Vec<&'a Record>,
    /// The SOA that says for how long there is nothing.
    soa: Option<&'a Record>,
}

impl Zone {
    fn new() -> Result<Zone, hickory_server::proto::ProtoError> {
        let apex = Name::from_str(APEX)?;
        let soa = SOA::new(
            Name::from_str("ns.lab.test.")?,
            Name::from_str("hostmaster.lab.test.")?,
            1,
            3600,
            600,
            86400,
            NEGATIVE_TTL_SECONDS,
        );
        let soa = Record::from_rdata(apex.clone(), TTL_SECONDS, RData::SOA(soa));
        let mut records = RECORDS
            .iter()
            .map(|(name, entry)| {
                let data = match entry {
                    Entry::V4(address) => RData::A((*address).into()),
                    Entry::V6(address) => RData::AAAA((*address).into()),
                    Entry::Alias(target) => RData::CNAME(CNAME(Name::from_str(target)?)),
                    Entry::Text(text) => RData::TXT(TXT::new(vec![(*text).to_owned()])),
                };
                Ok(Record::from_rdata(Name::from_str(name)?, TTL_SECONDS, data))
            })
            .collect::<Result<Vec<_>, hickory_server::proto::ProtoError>>()?;
        records.push(soa.clone());
        Ok(Zone { apex, soa, records })
    }

    fn answer(&self, name: &Name, kind: RecordType) -> Answer<'_> {
        let mut answer = Answer {
            code: ResponseCode::NoError,
            records: Vec::new(),
            soa: None,
        };
        if !self.apex.zone_of(name) {
            answer.code = ResponseCode::Refused;
            return answer;
        }
        let mut name = name.clone();
        for _ in 0..CNAME_DEPTH_MAX {
            let here: Vec<&Record> = self.records.iter().filter(|at| at.name == name).collect();
            let before = answer.records.len();
            answer.records.extend(
                here.iter()
                    .filter(|at| at.record_type() == kind || kind == RecordType::ANY),
            );
            if answer.records.len() > before {
                return answer;
            }
            let alias = here.iter().find_map(|at| match &at.data {
                RData::CNAME(target) => Some((*at, target.0.clone())),
                _ => None,
            });
            let Some((record, target)) = alias else {
                // RFC 2308 section 2: the name is there without this type, or is not there.
                if here.is_empty() {
                    answer.code = ResponseCode::NXDomain;
                }
                answer.soa = Some(&self.soa);
                return answer;
            };
            answer.records.push(record);
            name = target;
        }
        answer.code = ResponseCode::ServFail;
        answer
    }
}

#[async_trait::async_trait]
impl RequestHandler for Zone {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let edns = request.edns.as_ref().map(|theirs| {
            let mut ours = Edns::new();
            ours.set_max_payload(theirs.max_payload().clamp(512, UDP_PAYLOAD_MAX));
            ours
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let answer = match request.request_info() {
            Ok(asked) if request.metadata.op_code == OpCode::Query => {
                self.answer(asked.query.name(), asked.query.query_type())
            }
            _ => Answer {
                code: ResponseCode::NotImp,
                records: Vec::new(),
                soa: None,
            },
        };
        metadata.authoritative = answer.code != ResponseCode::Refused;
        metadata.response_code = answer.code;
        let nothing: [&Record; 0] = [];
        let message = builder.build(metadata, answer.records, nothing, answer.soa, nothing);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(_) => failed(request),
        }
    }
}

/// For hickory's own statistics: the answer could not be sent.
fn failed(request: &Request) -> ResponseInfo {
    let mut metadata = Metadata::new(
        request.metadata.id,
        MessageType::Response,
        request.metadata.op_code,
    );
    metadata.response_code = ResponseCode::ServFail;
    Header {
        metadata,
        counts: HeaderCounts::default(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, usize, bool) {
        let zone = Zone::new().unwrap();
        let answer = zone.answer(&Name::from_str(name).unwrap(), kind);
        (answer.code, answer.records.len(), answer.soa.is_some())
    }

    #[test]
    fn names_answer_as_the_table_says() {
        let cases = [
            (
                "v4only.lab.test.",
                RecordType::A,
                ResponseCode::NoError,
                1,
                false,
            ),
            (
                "V4ONLY.lab.test.",
                RecordType::A,
                ResponseCode::NoError,
                1,
                false,
            ),
            (
                "v4only.lab.test.",
                RecordType::AAAA,
                ResponseCode::NoError,
                0,
                true,
            ),
            (
                "www.lab.test.",
                RecordType::A,
                ResponseCode::NoError,
                2,
                false,
            ),
            (
                "www.lab.test.",
                RecordType::AAAA,
                ResponseCode::NoError,
                1,
                true,
            ),
            (
                "dual.lab.test.",
                RecordType::AAAA,
                ResponseCode::NoError,
                1,
                false,
            ),
            (
                "nodata.lab.test.",
                RecordType::A,
                ResponseCode::NoError,
                0,
                true,
            ),
            (
                "absent.lab.test.",
                RecordType::A,
                ResponseCode::NXDomain,
                0,
                true,
            ),
            (
                "lost.lab.test.",
                RecordType::A,
                ResponseCode::NXDomain,
                1,
                true,
            ),
            (
                "example.org.",
                RecordType::A,
                ResponseCode::Refused,
                0,
                false,
            ),
        ];
        for (name, kind, code, records, soa) in cases {
            assert_eq!(ask(name, kind), (code, records, soa), "{name} {kind}");
        }
    }
}
