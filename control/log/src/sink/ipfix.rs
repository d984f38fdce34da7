//! IPFIX messages (RFC 7011) with the NAT elements of RFC 8158.

use crate::record::{Alarm, AlarmKind, Block, BlockAction, Record, Session, SessionAction, What};
use gate64_wire::addr::Protocol;

/// RFC 7011 section 3.1.
const VERSION: u16 = 10;
const MESSAGE_HEADER_LEN: usize = 16;
const SET_HEADER_LEN: usize = 4;
const TEMPLATE_SET: u16 = 2;
const OPTIONS_TEMPLATE_SET: u16 = 3;

/// Templates are numbered from 256 (RFC 7011 section 3.4.1).
const SESSION_TEMPLATE: u16 = 256;
const BLOCK_TEMPLATE: u16 = 257;
const THRESHOLD_TEMPLATE: u16 = 258;
const RELIABILITY_TEMPLATE: u16 = 259;

/// The observation domain, and the NAT instance in every record.
const DOMAIN: u32 = 1;

/// natEvent of RFC 8158 section 4.3.
const NAT64_SESSION_CREATE: u8 = 6;
const NAT64_SESSION_DELETE: u8 = 7;
const PORT_BLOCK_ALLOCATION: u8 = 16;
const PORT_BLOCK_DEALLOCATION: u8 = 17;
const THRESHOLD_REACHED: u8 = 18;

/// natThresholdEvent of RFC 8158 section 4.5: address pool high and low, global address mapping
/// high.
const POOL_HIGH: u32 = 1;
const POOL_LOW: u32 = 2;
const MAPPING_HIGH: u32 = 5;

/// Information element and its octets.
type Field = (u16, u16);

const OBSERVATION_TIME_MILLISECONDS: Field = (323, 8);
const NAT_EVENT: Field = (230, 1);
const PROTOCOL_IDENTIFIER: Field = (4, 1);
const SOURCE_IPV6_ADDRESS: Field = (27, 16);
const SOURCE_IPV6_PREFIX_LENGTH: Field = (29, 1);
const DESTINATION_IPV6_ADDRESS: Field = (28, 16);
const POST_NAT_SOURCE_IPV4_ADDRESS: Field = (225, 4);
const POST_NAT_DESTINATION_IPV4_ADDRESS: Field = (226, 4);
const SOURCE_TRANSPORT_PORT: Field = (7, 2);
const DESTINATION_TRANSPORT_PORT: Field = (11, 2);
const POST_NAPT_SOURCE_TRANSPORT_PORT: Field = (227, 2);
const POST_NAPT_DESTINATION_TRANSPORT_PORT: Field = (228, 2);
const PORT_RANGE_START: Field = (361, 2);
const PORT_RANGE_END: Field = (362, 2);
const PORT_RANGE_STEP_SIZE: Field = (363, 2);
const PORT_RANGE_NUM_PORTS: Field = (364, 2);
const NAT_INSTANCE_ID: Field = (463, 4);
const NAT_THRESHOLD_EVENT: Field = (467, 4);
const EXPORTING_PROCESS_ID: Field = (144, 4);
const NOT_SENT_FLOW_TOTAL_COUNT: Field = (166, 8);

const SESSION_FIELDS: [Field; 12] = [
    OBSERVATION_TIME_MILLISECONDS,
    NAT_EVENT,
    PROTOCOL_IDENTIFIER,
    SOURCE_IPV6_ADDRESS,
    DESTINATION_IPV6_ADDRESS,
    POST_NAT_SOURCE_IPV4_ADDRESS,
    POST_NAT_DESTINATION_IPV4_ADDRESS,
    SOURCE_TRANSPORT_PORT,
    DESTINATION_TRANSPORT_PORT,
    POST_NAPT_SOURCE_TRANSPORT_PORT,
    POST_NAPT_DESTINATION_TRANSPORT_PORT,
    NAT_INSTANCE_ID,
];

const BLOCK_FIELDS: [Field; 10] = [
    OBSERVATION_TIME_MILLISECONDS,
    NAT_EVENT,
    SOURCE_IPV6_ADDRESS,
    SOURCE_IPV6_PREFIX_LENGTH,
    POST_NAT_SOURCE_IPV4_ADDRESS,
    PORT_RANGE_START,
    PORT_RANGE_END,
    PORT_RANGE_STEP_SIZE,
    PORT_RANGE_NUM_PORTS,
    NAT_INSTANCE_ID,
];

const THRESHOLD_FIELDS: [Field; 4] = [
    OBSERVATION_TIME_MILLISECONDS,
    NAT_EVENT,
    NAT_THRESHOLD_EVENT,
    NAT_INSTANCE_ID,
];

/// One message, and how many records of the log are in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its octets.
    pub bytes: Vec<u8>,
    /// Records of the log.
    pub records: usize,
}

/// One stream of messages to a collector: its sequence number.
#[derive(Debug)]
pub struct Exporter {
    message_max: usize,
    /// Data records sent so far (RFC 7011 section 3.1).
    sequence: u32,
}

impl Exporter {
    /// Messages of at most `message_max` octets, at least 512.
    pub fn new(message_max: usize) -> Exporter {
        Exporter {
            message_max: message_max.clamp(512, usize::from(u16::MAX)),
            sequence: 0,
        }
    }

    /// A new connection: numbering begins anew (RFC 7011 section 10.4).
    pub fn restart(&mut self) {
        self.sequence = 0;
    }

    /// Templates, options template, and what was not sent so far (RFC 7011 section 4.3).
    pub fn templates(&mut self, lost: u64, now_seconds: u32) -> Vec<u8> {
        let mut templates = Vec::new();
        for (id, fields) in [
            (SESSION_TEMPLATE, &SESSION_FIELDS[..]),
            (BLOCK_TEMPLATE, &BLOCK_FIELDS[..]),
            (THRESHOLD_TEMPLATE, &THRESHOLD_FIELDS[..]),
        ] {
            put16(&mut templates, id);
            put16(&mut templates, count(fields.len()));
            put_fields(&mut templates, fields);
        }
        let mut options = Vec::new();
        put16(&mut options, RELIABILITY_TEMPLATE);
        put16(&mut options, 2);
        // One of the two fields is the scope.
        put16(&mut options, 1);
        put_fields(
            &mut options,
            &[EXPORTING_PROCESS_ID, NOT_SENT_FLOW_TOTAL_COUNT],
        );
        let mut reliability = std::process::id().to_be_bytes().to_vec();
        reliability.extend(lost.to_be_bytes());
        let mut body = Vec::new();
        put_set(&mut body, TEMPLATE_SET, &templates);
        put_set(&mut body, OPTIONS_TEMPLATE_SET, &options);
        put_set(&mut body, RELIABILITY_TEMPLATE, &reliability);
        self.message(&body, 1, now_seconds)
    }

    /// The messages of these records; those that IPFIX has no element for are left out.
    pub fn messages(&mut self, records: &[Record], now_seconds: u32) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut body = Vec::new();
        let mut set: Option<(u16, Vec<u8>)> = None;
        let (mut in_message, mut data_records) = (0, 0);
        for record in records {
            let Some((template, data)) = data_of(record) else {
                in_message += 1;
                continue;
            };
            let open = set
                .as_ref()
                .map_or(0, |(_, open)| SET_HEADER_LEN + open.len());
            let length = MESSAGE_HEADER_LEN + body.len() + open + SET_HEADER_LEN + data.len();
            if length > self.message_max {
                close_set(&mut body, set.take());
                messages.push(Message {
                    bytes: self.message(&body, data_records, now_seconds),
                    records: in_message,
                });
                body.clear();
                (in_message, data_records) = (0, 0);
            }
            match &mut set {
                Some((id, open)) if *id == template => open.extend(data),
                _ => close_set(&mut body, set.replace((template, data))),
            }
            in_message += 1;
            data_records += 1;
        }
        close_set(&mut body, set);
        if !body.is_empty() {
            messages.push(Message {
                bytes: self.message(&body, data_records, now_seconds),
                records: in_message,
            });
        }
        messages
    }

    fn message(&mut self, body: &[u8], data_records: u32, now_seconds: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(MESSAGE_HEADER_LEN + body.len());
        put16(&mut out, VERSION);
        put16(&mut out, count(MESSAGE_HEADER_LEN + body.len()));
        out.extend(now_seconds.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(DOMAIN.to_be_bytes());
        out.extend(body);
        self.sequence = self.sequence.wrapping_add(data_records);
        out
    }
}

/// A record's template and octets.
fn data_of(record: &Record) -> Option<(u16, Vec<u8>)> {
    let mut out = Vec::with_capacity(64);
    out.extend(record.at_ms.to_be_bytes());
    let template = match &record.what {
        What::Session(action, session) => {
            put_session(&mut out, *action, session);
            SESSION_TEMPLATE
        }
        What::Block(action, block) => {
            put_block(&mut out, *action, block);
            BLOCK_TEMPLATE
        }
        What::Alarm(alarm) => {
            out.push(THRESHOLD_REACHED);
            out.extend(threshold_event(alarm)?.to_be_bytes());
            THRESHOLD_TEMPLATE
        }
        What::Started | What::Stopped | What::Lost(_) | What::ClockStep { .. } => return None,
    };
    out.extend(DOMAIN.to_be_bytes());
    Some((template, out))
}

fn put_session(out: &mut Vec<u8>, action: SessionAction, one: &Session) {
    out.push(match action {
        SessionAction::Created => NAT64_SESSION_CREATE,
        SessionAction::Deleted => NAT64_SESSION_DELETE,
    });
    out.push(match one.protocol {
        Protocol::Udp => 17,
        Protocol::Tcp => 6,
        // As the source sends it: ICMPv6.
        Protocol::Icmp => 58,
    });
    out.extend(one.v6.ip.octets());
    out.extend(one.v6_remote.ip.octets());
    out.extend(one.v4.ip.octets());
    out.extend(one.v4_remote.ip.octets());
    for port in [
        one.v6.port,
        one.v6_remote.port,
        one.v4.port,
        one.v4_remote.port,
    ] {
        put16(out, port);
    }
}

fn put_block(out: &mut Vec<u8>, action: BlockAction, block: &Block) {
    out.push(match action {
        // RFC 8158 has no event for a block that is held still: it is announced again.
        BlockAction::Allocated | BlockAction::Live => PORT_BLOCK_ALLOCATION,
        BlockAction::Released => PORT_BLOCK_DEALLOCATION,
    });
    out.extend(block.subscriber.ip.octets());
    out.push(block.subscriber.length);
    out.extend(block.v4.octets());
    // Start, end, step, number.
    for number in [block.port_first, block.port_last(), 1, block.port_count] {
        put16(out, number);
    }
}

fn threshold_event(alarm: &Alarm) -> Option<u32> {
    match (alarm.kind, alarm.raised) {
        (AlarmKind::Pool | AlarmKind::PortBlocks, true) => Some(POOL_HIGH),
        (AlarmKind::Pool | AlarmKind::PortBlocks, false) => Some(POOL_LOW),
        (AlarmKind::SessionTable, true) => Some(MAPPING_HIGH),
        (AlarmKind::SessionTable, false) | (AlarmKind::Log, _) => None,
    }
}

fn put_fields(out: &mut Vec<u8>, fields: &[Field]) {
    for (element, octets) in fields {
        put16(out, *element);
        put16(out, *octets);
    }
}

fn close_set(body: &mut Vec<u8>, set: Option<(u16, Vec<u8>)>) {
    if let Some((id, data)) = set {
        put_set(body, id, &data);
    }
}

fn put_set(body: &mut Vec<u8>, id: u16, data: &[u8]) {
    put16(body, id);
    put16(body, count(SET_HEADER_LEN + data.len()));
    body.extend(data);
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend(value.to_be_bytes());
}

/// Lengths and numbers of a message, which is bounded by 65535 octets.
fn count(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Prefix6;

    /// RFC 8158 section 5.6: time, event, subscriber, external address, range, instance.
    #[test]
    fn a_block_as_the_rfc_has_it() {
        let record = Record {
            sequence: 1,
            at_ms: 0x0102_0304,
            what: What::Block(
                BlockAction::Released,
                Block {
                    subscriber: Prefix6 {
                        ip: "2001:db8:1::".parse().unwrap(),
                        length: 56,
                    },
                    v4: "192.0.2.1".parse().unwrap(),
                    port_first: 0x0400,
                    port_count: 0x0200,
                },
            ),
        };
        let (template, data) = data_of(&record).unwrap();
        assert_eq!(template, BLOCK_TEMPLATE);
        let expected = [
            &[0, 0, 0, 0, 1, 2, 3, 4][..],
            &[17],
            &[0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[56],
            &[192, 0, 2, 1],
            &[4, 0, 5, 0xff, 0, 1, 2, 0],
            &[0, 0, 0, 1],
        ];
        assert_eq!(data, expected.concat());
        let octets: u16 = BLOCK_FIELDS.iter().map(|(_, octets)| octets).sum();
        assert_eq!(data.len(), usize::from(octets));
    }

    /// RFC 7011 section 4.3: notSentFlowTotalCount of this process.
    #[test]
    fn losses_stand_in_the_options() {
        let message = Exporter::new(1232).templates(0x0a0b, 7);
        let (head, lost) = message.split_at(message.len() - 8);
        assert_eq!(lost, 0x0a0b_u64.to_be_bytes());
        assert!(head.ends_with(&std::process::id().to_be_bytes()));
        assert_eq!(head[4..8], 7u32.to_be_bytes());
    }
}
