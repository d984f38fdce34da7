use dhcproto::v6::{DhcpOption, Message, OptionCode, StatusCode};
use dhcproto::{Decodable, Decoder, Encodable};

use super::super::message::tests::{MAC, SERVER, said};
use super::*;

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn prefix(text: &str, preferred: u32, valid: u32) -> Offered {
    Offered {
        prefix: text.parse().unwrap(),
        length: 56,
        preferred,
        valid,
    }
}

fn client() -> Client {
    Client::new(Identity::new(MAC, 1), Random::new(1))
}

/// Goes to the next message and gives it with its time.
fn next_message(client: &mut Client) -> (Instant, Message) {
    for _ in 0..100 {
        let now = client.next().expect("something is due");
        if let Some(octets) = client.due(now) {
            return (now, Message::decode(&mut Decoder::new(&octets)).unwrap());
        }
    }
    panic!("nothing is said");
}

fn answer(
    client: &mut Client,
    now: Instant,
    kind: MessageType,
    to: &Message,
    times: (u32, u32),
    prefixes: &[Offered],
) {
    let octets = said(kind, to.xid_num(), times, prefixes).to_vec().unwrap();
    client.hear(&octets, now);
}

/// A client that has asked for any prefix, when, and how.
fn soliciting() -> (Client, Instant, Message) {
    let mut client = client();
    client.link_came_up(Instant::now());
    let (now, solicit) = next_message(&mut client);
    assert_eq!(solicit.msg_type(), MessageType::Solicit);
    (client, now, solicit)
}

/// One that has been offered these, and has been heard out: what comes next is its request.
fn offered(given: &[Offered]) -> Client {
    let (mut client, now, solicit) = soliciting();
    let advertise = MessageType::Advertise;
    answer(&mut client, now, advertise, &solicit, (0, 0), given);
    client
}

/// One that has got these with T1 and T2, since then.
fn holding(times: (u32, u32), given: &[Offered]) -> (Client, Instant) {
    let mut client = offered(given);
    let (now, request) = next_message(&mut client);
    assert_eq!(request.msg_type(), MessageType::Request);
    let server = request.opts().get(OptionCode::ServerId);
    assert_eq!(server, Some(&DhcpOption::ServerId(SERVER.to_vec())));
    answer(&mut client, now, MessageType::Reply, &request, times, given);
    (client, now)
}

/// With a lease of 3600/7200 s, T1 1000 s, T2 2000 s, since the time it gives.
fn bound() -> (Client, Instant) {
    let given = [prefix("2001:db8:42::", 3600, 7200)];
    let (client, now) = holding((1000, 2000), &given);
    let lease = client.lease().unwrap();
    assert_eq!(lease.prefix, given[0].prefix);
    assert_eq!(lease.valid_until, Some(now + second(7200)));
    (client, now)
}

/// The prefix that a message names.
#[track_caller]
fn asked(message: &Message) -> Option<(Ipv6Addr, u8)> {
    let Some(DhcpOption::IAPD(association)) = message.opts().get(OptionCode::IAPD) else {
        panic!("{message:?}");
    };
    match association.opts.get(OptionCode::IAPrefix) {
        Some(DhcpOption::IAPrefix(asked)) => Some((asked.prefix_ip, asked.prefix_len)),
        _ => None,
    }
}

#[test]
fn rfc8415_section_18_2_1_solicits_wait_and_double_up_to_an_hour() {
    let mut client = client();
    let start = Instant::now();
    client.link_came_up(start);
    let mut sent = Vec::new();
    while sent.len() < 16 {
        let (now, message) = next_message(&mut client);
        assert_eq!(message.msg_type(), MessageType::Solicit);
        sent.push(now);
    }
    assert!(sent[0] - start <= SOLICIT_DELAY_MAX);
    let gaps: Vec<Duration> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] >= second(1) && gaps[0] <= Duration::from_millis(1100));
    for pair in gaps.windows(2).take(9) {
        let ratio = pair[1].as_secs_f64() / pair[0].as_secs_f64();
        assert!((1.8..=2.2).contains(&ratio), "{ratio}");
    }
    for late in &gaps[13..] {
        assert!((second(3240)..=second(3960)).contains(late), "{late:?}");
    }
}

#[test]
fn rfc8415_section_18_2_9_the_best_offer_of_the_first_second_is_taken() {
    let (mut client, now, solicit) = soliciting();
    for (preference, text) in [
        (1, "2001:db8:1::"),
        (9, "2001:db8:9::"),
        (3, "2001:db8:3::"),
    ] {
        let mut offer = said(
            MessageType::Advertise,
            solicit.xid_num(),
            (0, 0),
            &[prefix(text, 10, 20)],
        );
        offer.opts_mut().insert(DhcpOption::Preference(preference));
        client.hear(&offer.to_vec().unwrap(), now);
    }
    assert_eq!(client.due(now), None, "others may come");
    let (later, request) = next_message(&mut client);
    assert!(later - now >= second(1));
    assert_eq!(asked(&request), Some(("2001:db8:9::".parse().unwrap(), 56)));
}

#[test]
fn a_server_of_the_highest_preference_is_taken_at_once() {
    let (mut client, now, solicit) = soliciting();
    let mut offer = said(
        MessageType::Advertise,
        solicit.xid_num(),
        (0, 0),
        &[prefix("2001:db8::", 10, 20)],
    );
    offer.opts_mut().insert(DhcpOption::Preference(255));
    client.hear(&offer.to_vec().unwrap(), now);
    assert!(client.due(now).is_some());
}

#[test]
fn rfc8415_section_18_2_2_a_server_that_falls_silent_is_left_after_ten_requests() {
    let mut client = offered(&[prefix("2001:db8::", 10, 20)]);
    let kinds: Vec<MessageType> = (0..11)
        .map(|_| next_message(&mut client).1.msg_type())
        .collect();
    assert_eq!(kinds[..10], [MessageType::Request; 10]);
    assert_eq!(kinds[10], MessageType::Solicit);
}

#[test]
fn rfc8415_section_18_2_4_a_lease_is_renewed_at_t1_and_rebound_at_t2() {
    let (mut client, since) = bound();
    let (now, renew) = next_message(&mut client);
    assert_eq!(
        (renew.msg_type(), now - since),
        (MessageType::Renew, second(1000))
    );
    let mut kinds = Vec::new();
    let mut last = now;
    while last - since < second(7000) {
        let (now, message) = next_message(&mut client);
        if message.msg_type() == MessageType::Rebind && !kinds.contains(&MessageType::Rebind) {
            assert_eq!(now - since, second(2000));
            assert!(message.opts().get(OptionCode::ServerId).is_none());
        }
        kinds.push(message.msg_type());
        last = now;
        if kinds.len() > 40 {
            break;
        }
    }
    assert!(kinds.contains(&MessageType::Rebind));
    assert_eq!(
        kinds.last(),
        Some(&MessageType::Solicit),
        "it has run out: {kinds:?}"
    );
    assert_eq!(client.lease(), None);
}

/// The server answers the next message, a renewal, with these, then.
fn renew(client: &mut Client, given: &[Offered]) -> Instant {
    let (now, renew) = next_message(client);
    assert_eq!(renew.msg_type(), MessageType::Renew);
    answer(client, now, MessageType::Reply, &renew, (0, 0), given);
    now
}

#[test]
fn a_renewal_lengthens_the_lease() {
    let (mut client, _) = bound();
    let now = renew(&mut client, &[prefix("2001:db8:42::", 100, 200)]);
    assert_eq!(client.lease().unwrap().valid_until, Some(now + second(200)));
    assert_eq!(
        client.next(),
        Some(now + second(50)),
        "half of what is preferred"
    );
}

#[test]
fn a_prefix_that_the_server_takes_away_is_given_up() {
    let (mut client, _) = bound();
    let away = prefix("2001:db8:42::", 0, 0);
    let other = prefix("2001:db8:43::", 100, 200);
    renew(&mut client, &[away, other]);
    assert_eq!(client.lease().unwrap().prefix, other.prefix);
    renew(&mut client, &[prefix("2001:db8:43::", 0, 0)]);
    assert_eq!(client.lease(), None);
    assert_eq!(next_message(&mut client).1.msg_type(), MessageType::Solicit);
}

#[test]
fn rfc8415_section_18_2_10_1_a_server_that_has_forgotten_is_asked_for_the_same() {
    let (mut client, _) = bound();
    let (now, renew) = next_message(&mut client);
    let mut reply = said(MessageType::Reply, renew.xid_num(), (0, 0), &[]);
    let Some(DhcpOption::IAPD(association)) = reply.opts_mut().get_mut(OptionCode::IAPD) else {
        panic!("{reply:?}");
    };
    association.opts.insert(DhcpOption::StatusCode(StatusCode {
        status: Status::NoBinding,
        msg: String::new(),
    }));
    client.hear(&reply.to_vec().unwrap(), now);
    let (now, request) = next_message(&mut client);
    assert_eq!(request.msg_type(), MessageType::Request);
    let present = client.lease().expect("it is valid meanwhile");
    assert_eq!(asked(&request), Some((present.prefix, present.length)));
    let server = request.opts().get(OptionCode::ServerId);
    assert_eq!(server, Some(&DhcpOption::ServerId(SERVER.to_vec())));
    answer(&mut client, now, MessageType::Reply, &request, (0, 0), &[]);
    assert_eq!(client.lease(), None);
    assert_eq!(client.take_notice(), Some(Notice::NoneForUs));
}

#[test]
fn prefixes_longer_than_64_are_no_use() {
    let long = Offered {
        length: 72,
        ..prefix("2001:db8::", 10, 20)
    };
    let mut client = offered(&[long]);
    assert_eq!(client.take_notice(), Some(Notice::TooLong(72)));
    assert_eq!(next_message(&mut client).1.msg_type(), MessageType::Solicit);
}

#[test]
fn rfc8415_section_18_2_12_a_link_that_was_away_is_verified_and_a_silent_one_believed() {
    let (mut client, since) = bound();
    client.link_went_down();
    assert_eq!(
        client.next(),
        Some(since + second(7200)),
        "valid as long as it lasts"
    );
    client.link_came_up(since + second(10));
    for _ in 0..5 {
        assert_eq!(next_message(&mut client).1.msg_type(), MessageType::Rebind);
    }
    let (now, message) = next_message(&mut client);
    assert_eq!(
        (now - since, message.msg_type()),
        (second(1000), MessageType::Renew)
    );
}

#[test]
fn rfc8415_section_18_2_7_a_prefix_is_given_back() {
    let (mut client, since) = bound();
    client.release(since + second(1));
    let (now, release) = next_message(&mut client);
    assert_eq!(release.msg_type(), MessageType::Release);
    answer(&mut client, now, MessageType::Reply, &release, (0, 0), &[]);
    assert!(client.rests() && client.lease().is_none());
    let (mut client, since) = bound();
    client.release(since + second(1));
    next_message(&mut client);
    let (last, _) = next_message(&mut client);
    assert!(last - since < second(3));
    let end = client.next().unwrap();
    assert_eq!(client.due(end), None);
    assert!(client.rests(), "without an answer as well");
}

#[test]
fn a_lease_without_end_is_never_renewed() {
    let (client, _) = holding((0, 0), &[prefix("2001:db8::", FOREVER, FOREVER)]);
    assert_eq!(client.next(), None);
    assert_eq!(client.lease().unwrap().valid_until, None);
}

#[test]
fn a_prefix_that_runs_out_while_it_is_given_back_is_not_asked_for_again() {
    let (mut client, since) = bound();
    client.release(since + second(7199));
    assert_eq!(next_message(&mut client).1.msg_type(), MessageType::Release);
    assert_eq!(client.due(since + second(7200)), None);
    assert!(client.rests() && client.lease().is_none());
    assert_eq!(client.next(), None);
}

#[test]
fn a_server_without_a_prefix_is_no_news_beside_one_that_has() {
    let (mut client, now, solicit) = soliciting();
    let advertise = MessageType::Advertise;
    let good = [prefix("2001:db8::", 10, 20)];
    answer(&mut client, now, advertise, &solicit, (0, 0), &good);
    answer(&mut client, now, advertise, &solicit, (0, 0), &[]);
    assert_eq!(client.take_notice(), None);
    assert_eq!(next_message(&mut client).1.msg_type(), MessageType::Request);
}

#[test]
fn rfc8415_section_14_2_t1_comes_before_t2_and_both_before_the_end() {
    for (said, lifetimes, expected) in [
        ((0, 0), (100, 200), (50, 80)),
        ((30, 60), (100, 200), (30, 60)),
        // One of them is left to the client: it fits the other.
        ((0, 40), (1000, 2000), (25, 40)),
        ((0, 1500), (1000, 2000), (500, 1500)),
        ((90, 0), (100, 200), (90, 96)),
        // Later than the end is as good as left to the client.
        ((5000, 8000), (100, 200), (50, 80)),
        ((100, 150), (100, 200), (50, 150)),
        ((50, 200), (100, 200), (50, 80)),
        // Not preferred any more, but valid.
        ((0, 0), (0, 200), (100, 160)),
        // Never, and for ever.
        ((FOREVER, FOREVER), (100, 200), (FOREVER, FOREVER)),
        ((FOREVER, 0), (100, 200), (FOREVER, FOREVER)),
        ((0, FOREVER), (100, 200), (50, FOREVER)),
        ((0, 0), (FOREVER, FOREVER), (FOREVER, FOREVER)),
        ((0, 80), (FOREVER, FOREVER), (50, 80)),
        (
            (0, 0),
            (4_000_000_000, FOREVER),
            (2_000_000_000, 3_200_000_000),
        ),
    ] {
        let given = prefix("2001:db8::", lifetimes.0, lifetimes.1);
        assert_eq!(
            extension_times(said, &given),
            expected,
            "{said:?} of {lifetimes:?}"
        );
    }
    // On the wire: it renews before it rebinds, and rebinds while it is valid.
    let (mut client, since) = holding((0, 40), &[prefix("2001:db8::", 1000, 2000)]);
    let (now, renew) = next_message(&mut client);
    assert_eq!(
        (renew.msg_type(), now - since),
        (MessageType::Renew, second(25))
    );
}
