//! DHCPv6 messages of a client that asks for prefixes (RFC 8415), by dhcproto: pure functions.

use std::net::Ipv6Addr;
use std::time::Duration;

use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAPD, IAPrefix, Message, MessageType, ORO, OptionCode, Status,
};
use dhcproto::{Decodable, Decoder, Encodable};

/// Hosts make addresses from as many bits (RFC 4862 section 5.5.3).
pub const LENGTH_MAX: u8 = 64;
/// DUID-LL over Ethernet (section 11.4): the same each time, without a file.
const DUID_HEAD: [u8; 4] = [0, 3, 0, 1];
/// SOL_MAX_RT, which dhcproto 0.15 does not read.
const SOL_MAX_RT: u16 = 82;
/// Bounds of SOL_MAX_RT (section 21.24).
const SOL_MAX_RT_SECONDS: std::ops::RangeInclusive<u32> = 60..=86_400;

/// Who asks, and for which of its associations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    duid: Vec<u8>,
    iaid: u32,
}

impl Identity {
    /// The client behind an Ethernet address. `iaid`: stays the same for what the prefix is for.
    pub fn new(mac: [u8; 6], iaid: u32) -> Identity {
        Identity {
            duid: [&DUID_HEAD[..], &mac].concat(),
            iaid,
        }
    }
}

/// A delegated prefix, lifetimes in seconds; `u32::MAX` is forever (section 7.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// Its first address.
    pub prefix: Ipv6Addr,
    /// Leading bits.
    pub length: u8,
    /// How long addresses of it are preferred.
    pub preferred: u32,
    /// How long they are valid; zero takes it away.
    pub valid: u32,
}

/// What a client says.
#[derive(Debug)]
pub struct Question<'a> {
    /// Solicit, Request, Renew, Rebind or Release.
    pub kind: MessageType,
    /// Transaction id, 24 bits.
    pub xid: u32,
    /// To which server; `None`: any.
    pub server: Option<&'a [u8]>,
    /// The prefix that it is about.
    pub prefix: Option<(Ipv6Addr, u8)>,
    /// Since the first message of the exchange.
    pub elapsed: Duration,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Advertise or Reply.
    pub kind: MessageType,
    /// Its DUID.
    pub server: Vec<u8>,
    /// Against other servers; 255: it is to be taken.
    pub preference: u8,
    /// How the question fared.
    pub status: Status,
    /// How the association fared; success if nothing is said.
    pub association_status: Status,
    /// When to renew and to rebind, in seconds; zero leaves it to the client.
    pub times: (u32, u32),
    /// `None`: nothing is said of the association.
    pub prefixes: Option<Vec<Offered>>,
    /// SOL_MAX_RT in seconds.
    pub solicit_timeout_max: Option<u32>,
}

/// Writes a question.
pub fn encode(identity: &Identity, question: &Question<'_>) -> Option<Vec<u8>> {
    let mut given = DhcpOptions::new();
    given.insert(DhcpOption::ClientId(identity.duid.clone()));
    if let Some(server) = question.server {
        given.insert(DhcpOption::ServerId(server.to_vec()));
    }
    let hundredths = question.elapsed.as_millis() / 10;
    let elapsed = u16::try_from(hundredths).unwrap_or(u16::MAX);
    given.insert(DhcpOption::ElapsedTime(elapsed));
    if question.kind != MessageType::Release {
        // Section 18.2.1 and others: a client MUST ask for it.
        let opts = vec![OptionCode::SolMaxRt];
        given.insert(DhcpOption::ORO(ORO { opts }));
    }
    let mut prefixes = DhcpOptions::new();
    if let Some((prefix_ip, prefix_len)) = question.prefix {
        prefixes.insert(DhcpOption::IAPrefix(IAPrefix {
            preferred_lifetime: 0,
            valid_lifetime: 0,
            prefix_len,
            prefix_ip,
            opts: DhcpOptions::new(),
        }));
    }
    given.insert(DhcpOption::IAPD(IAPD {
        id: identity.iaid,
        t1: 0,
        t2: 0,
        opts: prefixes,
    }));
    let [_, xid @ ..] = question.xid.to_be_bytes();
    let mut message = Message::new_with_id(question.kind, xid);
    message.set_opts(given);
    message.to_vec().ok()
}

/// Reads an answer to the question of that id; nothing if it is none (sections 16.3 and 16.10).
pub fn decode(octets: &[u8], identity: &Identity, xid: u32) -> Option<Answer> {
    let message = Message::decode(&mut Decoder::new(octets)).ok()?;
    let kind = message.msg_type();
    let is_answer = matches!(kind, MessageType::Advertise | MessageType::Reply);
    let options = message.opts();
    let Some(DhcpOption::ServerId(server)) = options.get(OptionCode::ServerId) else {
        return None;
    };
    let is_ours = matches!(
        options.get(OptionCode::ClientId), Some(DhcpOption::ClientId(duid)) if *duid == identity.duid);
    (is_answer && is_ours && message.xid_num() == xid).then_some(())?;
    let mut answer = Answer {
        kind,
        server: server.clone(),
        preference: match options.get(OptionCode::Preference) {
            Some(DhcpOption::Preference(preference)) => *preference,
            _ => 0,
        },
        status: status(options),
        association_status: Status::Success,
        times: (0, 0),
        prefixes: None,
        solicit_timeout_max: options.get(OptionCode::SolMaxRt).and_then(seconds),
    };
    let associations = options.get_all(OptionCode::IAPD).unwrap_or_default();
    let own = associations.iter().find_map(|option| match option {
        // Section 21.21: T1 beyond T2 makes it invalid.
        DhcpOption::IAPD(one) if one.id == identity.iaid => {
            let is_valid = one.t1 <= one.t2 || one.t2 == 0;
            is_valid.then_some(one)
        }
        _ => None,
    });
    if let Some(own) = own {
        answer.association_status = status(&own.opts);
        answer.times = (own.t1, own.t2);
        let prefixes = own.opts.get_all(OptionCode::IAPrefix).unwrap_or_default();
        answer.prefixes = Some(prefixes.iter().filter_map(offered).collect());
    }
    Some(answer)
}

fn status(options: &DhcpOptions) -> Status {
    match options.get(OptionCode::StatusCode) {
        Some(DhcpOption::StatusCode(status)) => status.status,
        _ => Status::Success,
    }
}

fn seconds(option: &DhcpOption) -> Option<u32> {
    let DhcpOption::Unknown(unknown) = option else {
        return None;
    };
    (u16::from(unknown.code()) == SOL_MAX_RT).then_some(())?;
    let octets: [u8; 4] = unknown.data().try_into().ok()?;
    let seconds = u32::from_be_bytes(octets);
    SOL_MAX_RT_SECONDS.contains(&seconds).then_some(seconds)
}

/// Section 21.22: one that is preferred for longer than it is valid is to be ignored.
fn offered(option: &DhcpOption) -> Option<Offered> {
    let DhcpOption::IAPrefix(found) = option else {
        return None;
    };
    let is_valid = found.preferred_lifetime <= found.valid_lifetime
        && (1..=128).contains(&found.prefix_len)
        && !found.prefix_ip.is_multicast()
        && !found.prefix_ip.is_unicast_link_local();
    let mask = u128::MAX << (128 - u32::from(found.prefix_len.clamp(1, 128)));
    is_valid.then(|| Offered {
        prefix: Ipv6Addr::from(u128::from(found.prefix_ip) & mask),
        length: found.prefix_len,
        preferred: found.preferred_lifetime,
        valid: found.valid_lifetime,
    })
}

#[cfg(test)]
pub mod tests {
    use dhcproto::v6::{StatusCode, UnknownOption};

    use super::*;

    pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    pub const SERVER: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];

    /// A server's message: what it says of association 1.
    pub fn said(kind: MessageType, xid: u32, times: (u32, u32), prefixes: &[Offered]) -> Message {
        let mut inner = DhcpOptions::new();
        for one in prefixes {
            inner.insert(DhcpOption::IAPrefix(IAPrefix {
                preferred_lifetime: one.preferred,
                valid_lifetime: one.valid,
                prefix_len: one.length,
                prefix_ip: one.prefix,
                opts: DhcpOptions::new(),
            }));
        }
        let [_, xid @ ..] = xid.to_be_bytes();
        let mut message = Message::new_with_id(kind, xid);
        let options = message.opts_mut();
        options.insert(DhcpOption::ServerId(SERVER.to_vec()));
        options.insert(DhcpOption::ClientId(Identity::new(MAC, 1).duid));
        options.insert(DhcpOption::IAPD(IAPD {
            id: 1,
            t1: times.0,
            t2: times.1,
            opts: inner,
        }));
        message
    }

    fn prefix(text: &str, length: u8) -> Offered {
        Offered {
            prefix: text.parse().unwrap(),
            length,
            preferred: 3600,
            valid: 7200,
        }
    }

    fn read(message: &Message) -> Option<Answer> {
        decode(&message.to_vec().unwrap(), &Identity::new(MAC, 1), 7)
    }

    #[test]
    fn rfc8415_section_8_a_solicit_in_octets() {
        let question = Question {
            kind: MessageType::Solicit,
            xid: 0x01_0203,
            server: None,
            prefix: None,
            elapsed: Duration::from_millis(1230),
        };
        let octets = encode(&Identity::new(MAC, 5), &question).unwrap();
        let expected = [
            &[1, 1, 2, 3][..],
            &[0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 9],
            &[0, 6, 0, 2, 0, 82],
            &[0, 8, 0, 2, 0, 123],
            &[0, 25, 0, 12, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(octets, expected.concat());
    }

    #[test]
    fn an_advertised_prefix_is_read_and_cut_to_its_length() {
        let message = said(
            MessageType::Advertise,
            7,
            (1000, 2000),
            &[prefix("2001:db8:0:1::7", 56)],
        );
        let answer = read(&message).unwrap();
        assert_eq!(answer.prefixes.unwrap(), [prefix("2001:db8::", 56)]);
        assert_eq!(answer.times, (1000, 2000));
        assert_eq!(answer.server, SERVER);
    }

    #[test]
    fn rfc8415_section_16_answers_to_others_are_none() {
        let reply = MessageType::Reply;
        let good = || said(reply, 7, (0, 0), &[prefix("2001:db8::", 56)]);
        assert!(read(&good()).is_some());
        assert_eq!(read(&said(reply, 8, (0, 0), &[])), None, "another's id");
        assert_eq!(read(&said(MessageType::Solicit, 7, (0, 0), &[])), None);
        let mut other = good();
        other.opts_mut().remove(OptionCode::ClientId);
        assert_eq!(read(&other), None, "of nobody");
        let mut nobody = good();
        nobody.opts_mut().remove(OptionCode::ServerId);
        assert_eq!(read(&nobody), None, "from nobody");
        let octets = good().to_vec().unwrap();
        for length in 0..octets.len() {
            let _ = decode(&octets[..length], &Identity::new(MAC, 1), 7);
        }
    }

    #[test]
    fn rfc8415_section_21_what_is_invalid_is_passed_over() {
        let reply = MessageType::Reply;
        let wrong = Offered {
            preferred: 7201,
            ..prefix("2001:db8::", 56)
        };
        let answer = read(&said(reply, 7, (0, 0), &[wrong])).unwrap();
        assert_eq!(answer.prefixes, Some(Vec::new()));
        let turned = said(reply, 7, (2000, 1000), &[prefix("2001:db8::", 56)]);
        assert_eq!(read(&turned).unwrap().prefixes, None, "T1 after T2");
        let link_local = said(reply, 7, (0, 0), &[prefix("fe80::", 64)]);
        assert_eq!(read(&link_local).unwrap().prefixes, Some(Vec::new()));
    }

    #[test]
    fn status_and_the_servers_patience_are_read() {
        let mut message = said(MessageType::Advertise, 7, (0, 0), &[]);
        let none_left = StatusCode {
            status: Status::NoPrefixAvail,
            msg: String::new(),
        };
        message.opts_mut().insert(DhcpOption::StatusCode(none_left));
        for (seconds, read_as) in [(120_u32, Some(120)), (59, None), (86_401, None)] {
            let mut message = message.clone();
            let octets = seconds.to_be_bytes().to_vec();
            let option = UnknownOption::new(OptionCode::SolMaxRt, octets);
            message.opts_mut().insert(DhcpOption::Unknown(option));
            let answer = read(&message).unwrap();
            assert_eq!(answer.status, Status::NoPrefixAvail);
            assert_eq!(answer.solicit_timeout_max, read_as, "{seconds}");
        }
    }
}
