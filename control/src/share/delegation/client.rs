//! A DHCPv6 client that keeps one delegated prefix: RFC 8415 section 18.2 as a pure state machine,
//! with time as an argument.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use dhcproto::v6::{MessageType, Status};

use super::super::random::Random;
use super::message::{self, Answer, Identity, LENGTH_MAX, Offered, Question};

/// SOL_MAX_DELAY: the first message waits so long at most.
const SOLICIT_DELAY_MAX: Duration = Duration::from_secs(1);
/// SOL_MAX_RT, unless a server says otherwise.
const SOLICIT_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// After a server that offered a prefix has not given it.
const REFUSED_DELAY: Duration = Duration::from_secs(10);
/// However short a lease is, it is not renewed before.
const RENEW_AFTER_MIN: Duration = Duration::from_secs(5);
/// A server with this preference is taken at once (section 18.2.1).
const PREFERENCE_MAX: u8 = 255;
const FOREVER: u32 = u32::MAX;

/// A prefix that is this host's to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its first address.
    pub prefix: Ipv6Addr,
    /// Leading bits, at most 64.
    pub length: u8,
    /// Until when addresses are preferred; `None`: forever.
    pub preferred_until: Option<Instant>,
    /// Until when they are valid; `None`: forever.
    pub valid_until: Option<Instant>,
}

/// What an operator should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// All prefixes that a server offers are longer than a /64: this is the longest that it has.
    TooLong(u8),
    /// A server has none, or none for this host.
    NoneForUs,
}

/// Times of retransmission (section 15).
#[derive(Debug, Clone, Copy)]
struct Times {
    kind: MessageType,
    first: Duration,
    most: Duration,
    /// Messages; zero: no limit.
    count: u32,
}

const fn times(kind: MessageType, first: u64, most: u64, count: u32) -> Times {
    Times {
        kind,
        first: Duration::from_secs(first),
        most: Duration::from_secs(most),
        count,
    }
}

/// Section 7.6. The last verifies a lease after the link has been away (section 18.2.12).
const SOLICIT: Times = times(MessageType::Solicit, 1, SOLICIT_TIMEOUT_MAX.as_secs(), 0);
const REQUEST: Times = times(MessageType::Request, 1, 30, 10);
const RENEW: Times = times(MessageType::Renew, 10, 600, 0);
const REBIND: Times = times(MessageType::Rebind, 10, 600, 0);
const RELEASE: Times = times(MessageType::Release, 1, 1, 2);
const VERIFY: Times = times(MessageType::Rebind, 1, 4, 5);

/// An exchange under way.
#[derive(Debug)]
struct Exchange {
    times: Times,
    xid: u32,
    began: Option<Instant>,
    /// When the next message is due.
    at: Instant,
    timeout: Duration,
    sent: u32,
}

#[derive(Debug)]
enum Phase {
    /// Without a link, or released.
    Rests,
    /// The best offer so far.
    Asks(Exchange, Option<Answer>),
    /// Of that server.
    Requests(Exchange, Answer),
    /// With a lease.
    Holds,
    /// With a lease: renews, rebinds or verifies it.
    Extends(Exchange),
    Releases(Exchange),
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    server: Vec<u8>,
    renew_at: Option<Instant>,
    rebind_at: Option<Instant>,
}

/// The client of one link.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    random: Random,
    phase: Phase,
    held: Option<Held>,
    solicit_timeout_max: Duration,
    notice: Option<Notice>,
}

impl Client {
    /// One that rests until its link comes up.
    pub fn new(identity: Identity, random: Random) -> Client {
        Client {
            identity,
            random,
            phase: Phase::Rests,
            held: None,
            solicit_timeout_max: SOLICIT_TIMEOUT_MAX,
            notice: None,
        }
    }

    /// The prefix at present.
    pub fn lease(&self) -> Option<Lease> {
        self.held.as_ref().map(|held| held.lease)
    }

    /// What has come up since the last call.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notice.take()
    }

    /// Whether nothing is to be said until the link comes up again.
    pub fn rests(&self) -> bool {
        matches!(self.phase, Phase::Rests)
    }

    /// The link has come up: it may be another network, so that a lease has to be verified.
    pub fn link_came_up(&mut self, now: Instant) {
        self.phase = match self.held {
            Some(_) => Phase::Extends(self.begin(VERIFY, now)),
            None => self.ask(now),
        };
    }

    /// Nobody would hear anything. A lease lasts as long as it is valid.
    pub fn link_went_down(&mut self) {
        self.phase = Phase::Rests;
    }

    /// Gives the prefix back (section 18.2.7).
    pub fn release(&mut self, now: Instant) {
        self.phase = match self.held {
            Some(_) if !self.rests() => Phase::Releases(self.begin(RELEASE, now)),
            _ => Phase::Rests,
        };
    }

    fn begin(&mut self, times: Times, at: Instant) -> Exchange {
        Exchange {
            times,
            xid: u32::try_from(self.random.bits() >> 40).unwrap_or(0),
            began: None,
            at,
            timeout: Duration::ZERO,
            sent: 0,
        }
    }

    fn ask(&mut self, now: Instant) -> Phase {
        let delay = self.random.within(Duration::ZERO, SOLICIT_DELAY_MAX);
        Phase::Asks(self.begin(SOLICIT, now + delay), None)
    }

    /// When `due` is to be called next.
    pub fn next(&self) -> Option<Instant> {
        let valid_until = self.held.as_ref().and_then(|held| held.lease.valid_until);
        let held = self.held.as_ref();
        let of_phase = match &self.phase {
            Phase::Rests => None,
            Phase::Holds => held.and_then(|held| held.renew_at),
            Phase::Extends(exchange) if exchange.times.kind == MessageType::Renew => {
                let rebind_at = held.and_then(|held| held.rebind_at);
                rebind_at.into_iter().chain([exchange.at]).min()
            }
            Phase::Asks(exchange, _)
            | Phase::Requests(exchange, _)
            | Phase::Extends(exchange)
            | Phase::Releases(exchange) => Some(exchange.at),
        };
        of_phase.into_iter().chain(valid_until).min()
    }

    /// The message to be sent now, if any.
    pub fn due(&mut self, now: Instant) -> Option<Vec<u8>> {
        let is_past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_past(self.lease().and_then(|lease| lease.valid_until)) {
            self.lose(now);
        }
        let (renew_at, rebind_at) = self
            .held
            .as_ref()
            .map_or((None, None), |held| (held.renew_at, held.rebind_at));
        match &self.phase {
            Phase::Holds if is_past(renew_at) => {
                self.phase = Phase::Extends(self.begin(RENEW, now));
            }
            Phase::Extends(exchange)
                if exchange.times.kind == MessageType::Renew && is_past(rebind_at) =>
            {
                self.phase = Phase::Extends(self.begin(REBIND, now));
            }
            // The first timeout is over: the best that was offered is taken.
            Phase::Asks(exchange, Some(best)) if exchange.at <= now => {
                let best = best.clone();
                self.phase = Phase::Requests(self.begin(REQUEST, now), best);
            }
            _ => {}
        }
        self.end_in_vain(now);
        self.send(now)
    }

    /// An exchange has had all its messages.
    fn end_in_vain(&mut self, now: Instant) {
        let is_over = |exchange: &Exchange| {
            let Times { count, .. } = exchange.times;
            count > 0 && exchange.sent >= count && exchange.at <= now
        };
        match &self.phase {
            Phase::Requests(exchange, _) if is_over(exchange) => self.phase = self.ask(now),
            // Section 18.2.12: who gets no answer goes on using what it has.
            Phase::Extends(exchange) if is_over(exchange) => self.phase = Phase::Holds,
            Phase::Releases(exchange) if is_over(exchange) => self.rest(),
            _ => {}
        }
    }

    fn rest(&mut self) {
        self.held = None;
        self.phase = Phase::Rests;
    }

    fn lose(&mut self, now: Instant) {
        self.held = None;
        if !self.rests() {
            self.phase = self.ask(now);
        }
    }

    fn send(&mut self, now: Instant) -> Option<Vec<u8>> {
        let held = self.held.as_ref();
        let (exchange, server, prefix) = match &mut self.phase {
            Phase::Rests | Phase::Holds => return None,
            Phase::Asks(exchange, _) => (exchange, None, None),
            Phase::Requests(exchange, offer) => {
                let prefix = usable(offer, None).map(|one| (one.prefix, one.length));
                (exchange, Some(offer.server.as_slice()), prefix)
            }
            Phase::Extends(exchange) | Phase::Releases(exchange) => {
                let is_to_any = exchange.times.kind == MessageType::Rebind;
                let server = held.map(|held| held.server.as_slice());
                let prefix = held.map(|held| (held.lease.prefix, held.lease.length));
                (exchange, server.filter(|_| !is_to_any), prefix)
            }
        };
        if exchange.at > now {
            return None;
        }
        let began = *exchange.began.get_or_insert(now);
        let most = match exchange.times.kind {
            MessageType::Solicit => self.solicit_timeout_max,
            _ => exchange.times.most,
        };
        exchange.timeout = timeout(&mut self.random, exchange, most);
        exchange.at = now + exchange.timeout;
        exchange.sent += 1;
        let question = Question {
            kind: exchange.times.kind,
            xid: exchange.xid,
            server,
            prefix,
            elapsed: now - began,
        };
        message::encode(&self.identity, &question)
    }

    /// Takes what has arrived.
    pub fn hear(&mut self, octets: &[u8], now: Instant) {
        let xid = match &self.phase {
            Phase::Rests | Phase::Holds => return,
            Phase::Asks(exchange, _)
            | Phase::Requests(exchange, _)
            | Phase::Extends(exchange)
            | Phase::Releases(exchange) => exchange.xid,
        };
        let Some(answer) = message::decode(octets, &self.identity, xid) else {
            return;
        };
        if let Some(seconds) = answer.solicit_timeout_max {
            self.solicit_timeout_max = Duration::from_secs(u64::from(seconds));
        }
        match (&mut self.phase, answer.kind) {
            (Phase::Asks(..), MessageType::Advertise) => self.offered(answer, now),
            (Phase::Requests(..), MessageType::Reply) => self.answered(&answer, now),
            (Phase::Extends(..), MessageType::Reply) => self.extended(answer, now),
            (Phase::Releases(..), MessageType::Reply) => self.rest(),
            _ => {}
        }
    }

    /// Section 18.2.9.
    fn offered(&mut self, answer: Answer, now: Instant) {
        if usable(&answer, None).is_none() {
            self.notice = Some(refusal(&answer));
            return;
        }
        let Phase::Asks(exchange, best) = &mut self.phase else {
            return;
        };
        let is_decided = answer.preference == PREFERENCE_MAX || exchange.sent > 1;
        if is_decided {
            self.phase = Phase::Requests(self.begin(REQUEST, now), answer);
        } else if best
            .as_ref()
            .is_none_or(|best| best.preference < answer.preference)
        {
            *best = Some(answer);
        }
    }

    /// Section 18.2.10.1: the reply to a request.
    fn answered(&mut self, answer: &Answer, now: Instant) {
        if answer.status == Status::UnspecFail {
            // It is asked again in due course.
            return;
        }
        match usable(answer, None) {
            Some(prefix) => self.take(answer, prefix, now),
            None => {
                self.notice = Some(refusal(answer));
                self.held = None;
                self.phase = Phase::Asks(self.begin(SOLICIT, now + REFUSED_DELAY), None);
            }
        }
    }

    /// Section 18.2.10.1: the reply to what was to extend the lease.
    fn extended(&mut self, answer: Answer, now: Instant) {
        let Some(present) = self.lease() else {
            return;
        };
        if answer.association_status == Status::NoBinding {
            let mut answer = answer;
            answer.prefixes = Some(vec![Offered {
                prefix: present.prefix,
                length: present.length,
                preferred: FOREVER,
                valid: FOREVER,
            }]);
            self.phase = Phase::Requests(self.begin(REQUEST, now), answer);
            return;
        }
        let is_taken_away = answer.prefixes.iter().flatten().any(|one| {
            (one.prefix, one.length) == (present.prefix, present.length) && one.valid == 0
        });
        match usable(&answer, Some(&present)) {
            Some(prefix) => self.take(&answer, prefix, now),
            None if is_taken_away => self.lose(now),
            // What is not mentioned stays as it was, and is asked for again.
            None => {}
        }
    }

    fn take(&mut self, answer: &Answer, given: Offered, now: Instant) {
        let until = |seconds: u32| match seconds {
            FOREVER => None,
            seconds => Some(now + Duration::from_secs(u64::from(seconds))),
        };
        let basis = match given.preferred {
            0 => given.valid,
            preferred => preferred,
        };
        // Section 14.2: times that are left to the client are parts of the lifetime.
        let time = |said: u32, tenths: u64| match (said, basis) {
            (FOREVER, _) | (0, FOREVER) => None,
            (0, basis) => Some(
                Duration::from_secs(u64::from(basis)) * u32::try_from(tenths).unwrap_or(10) / 10,
            ),
            (said, _) => Some(Duration::from_secs(u64::from(said))),
        };
        let renew = time(answer.times.0, 5).map(|after| after.max(RENEW_AFTER_MIN));
        let rebind = time(answer.times.1, 8).map(|after| after.max(RENEW_AFTER_MIN));
        self.held = Some(Held {
            lease: Lease {
                prefix: given.prefix,
                length: given.length,
                preferred_until: until(given.preferred),
                valid_until: until(given.valid),
            },
            server: answer.server.clone(),
            renew_at: renew.map(|after| now + after),
            rebind_at: rebind.map(|after| now + after),
        });
        self.phase = Phase::Holds;
    }
}

/// Section 15: doubled each time up to a bound, and spread.
fn timeout(random: &mut Random, exchange: &Exchange, most: Duration) -> Duration {
    let spread = |random: &mut Random, base: Duration| random.within(base * 9 / 10, base * 11 / 10);
    if exchange.sent == 0 {
        let first = exchange.times.first;
        // Section 18.2.1: the first timeout of a Solicit is not shortened.
        return match exchange.times.kind {
            MessageType::Solicit => random.within(first, first * 11 / 10),
            _ => spread(random, first),
        };
    }
    let next = exchange.timeout + spread(random, exchange.timeout);
    if next > most {
        spread(random, most)
    } else {
        next
    }
}

/// The prefix of an answer that is used: the present one while it is given, or the one that is
/// preferred for the longest time.
fn usable(answer: &Answer, present: Option<&Lease>) -> Option<Offered> {
    let refuses = |status| !matches!(status, Status::Success);
    if refuses(answer.status) || refuses(answer.association_status) {
        return None;
    }
    let given = answer.prefixes.iter().flatten().copied();
    let given = given.filter(|one| one.length <= LENGTH_MAX && one.valid > 0);
    let is_present = |one: &Offered| {
        present.is_some_and(|lease| (lease.prefix, lease.length) == (one.prefix, one.length))
    };
    given.max_by_key(|one| {
        (
            is_present(one) && one.preferred > 0,
            one.preferred,
            one.valid,
        )
    })
}

fn refusal(answer: &Answer) -> Notice {
    let prefixes = answer.prefixes.iter().flatten();
    let lengths = prefixes.filter(|one| one.valid > 0).map(|one| one.length);
    lengths.min().map_or(Notice::NoneForUs, Notice::TooLong)
}

#[cfg(test)]
mod tests {
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

    /// With a lease of 3600/7200 s, T1 1000 s, T2 2000 s, since the time it gives.
    fn bound() -> (Client, Instant) {
        let mut client = client();
        client.link_came_up(Instant::now());
        let given = [prefix("2001:db8:42::", 3600, 7200)];
        let (now, solicit) = next_message(&mut client);
        assert_eq!(solicit.msg_type(), MessageType::Solicit);
        answer(
            &mut client,
            now,
            MessageType::Advertise,
            &solicit,
            (0, 0),
            &given,
        );
        let (now, request) = next_message(&mut client);
        assert_eq!(request.msg_type(), MessageType::Request);
        let server = request.opts().get(OptionCode::ServerId);
        assert_eq!(server, Some(&DhcpOption::ServerId(SERVER.to_vec())));
        answer(
            &mut client,
            now,
            MessageType::Reply,
            &request,
            (1000, 2000),
            &given,
        );
        assert_eq!(client.lease().unwrap().prefix, given[0].prefix);
        assert_eq!(
            client.lease().unwrap().valid_until,
            Some(now + second(7200))
        );
        (client, now)
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
        let mut client = client();
        client.link_came_up(Instant::now());
        let (now, solicit) = next_message(&mut client);
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
        let Some(DhcpOption::IAPD(asked)) = request.opts().get(OptionCode::IAPD) else {
            panic!("{request:?}");
        };
        let Some(DhcpOption::IAPrefix(asked)) = asked.opts.get(OptionCode::IAPrefix) else {
            panic!("{request:?}");
        };
        assert_eq!(asked.prefix_ip, "2001:db8:9::".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn a_server_of_the_highest_preference_is_taken_at_once() {
        let mut client = client();
        client.link_came_up(Instant::now());
        let (now, solicit) = next_message(&mut client);
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
        let mut client = client();
        client.link_came_up(Instant::now());
        let (now, solicit) = next_message(&mut client);
        answer(
            &mut client,
            now,
            MessageType::Advertise,
            &solicit,
            (0, 0),
            &[prefix("2001:db8::", 10, 20)],
        );
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

    #[test]
    fn a_renewal_lengthens_the_lease() {
        let (mut client, _) = bound();
        let (now, renew) = next_message(&mut client);
        answer(
            &mut client,
            now,
            MessageType::Reply,
            &renew,
            (0, 0),
            &[prefix("2001:db8:42::", 100, 200)],
        );
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
        let (now, renew) = next_message(&mut client);
        let away = prefix("2001:db8:42::", 0, 0);
        let other = prefix("2001:db8:43::", 100, 200);
        answer(
            &mut client,
            now,
            MessageType::Reply,
            &renew,
            (0, 0),
            &[away, other],
        );
        assert_eq!(client.lease().unwrap().prefix, other.prefix);
        let (now, renew) = next_message(&mut client);
        let away = prefix("2001:db8:43::", 0, 0);
        answer(
            &mut client,
            now,
            MessageType::Reply,
            &renew,
            (0, 0),
            &[away],
        );
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
        assert!(client.lease().is_some(), "it is valid meanwhile");
        answer(&mut client, now, MessageType::Reply, &request, (0, 0), &[]);
        assert_eq!(client.lease(), None);
        assert_eq!(client.take_notice(), Some(Notice::NoneForUs));
    }

    #[test]
    fn prefixes_longer_than_64_are_no_use() {
        let mut client = client();
        client.link_came_up(Instant::now());
        let (now, solicit) = next_message(&mut client);
        let long = Offered {
            length: 72,
            ..prefix("2001:db8::", 10, 20)
        };
        answer(
            &mut client,
            now,
            MessageType::Advertise,
            &solicit,
            (0, 0),
            &[long],
        );
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
        let mut client = client();
        client.link_came_up(Instant::now());
        let forever = [prefix("2001:db8::", FOREVER, FOREVER)];
        let (now, solicit) = next_message(&mut client);
        answer(
            &mut client,
            now,
            MessageType::Advertise,
            &solicit,
            (0, 0),
            &forever,
        );
        let (now, request) = next_message(&mut client);
        answer(
            &mut client,
            now,
            MessageType::Reply,
            &request,
            (0, 0),
            &forever,
        );
        assert_eq!(client.next(), None);
        assert_eq!(client.lease().unwrap().valid_until, None);
    }
}
