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

/// Section 7.6, but for the last two: the end waits for no more than two releases, and a lease is verified after the
/// link has been away (section 18.2.12) at the pace of a Confirm, CNF_TIMEOUT and CNF_MAX_RT, in as many messages as
/// begin within CNF_MAX_RD or end it.
const SOLICIT: Times = times(MessageType::Solicit, 1, SOLICIT_TIMEOUT_MAX.as_secs(), 0);
const REQUEST: Times = times(MessageType::Request, 1, 30, 10);
const RENEW: Times = times(MessageType::Renew, 10, 600, 0);
const REBIND: Times = times(MessageType::Rebind, 10, 600, 0);
const RELEASE: Times = times(MessageType::Release, 1, 1, 2);
const VERIFY: Times = times(MessageType::Rebind, 1, 4, 5);

/// What a server may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Offer {
    server: Vec<u8>,
    preference: u8,
    prefix: (Ipv6Addr, u8),
}

impl Offer {
    /// What an advertisement offers, if that is of use.
    fn of(answer: &Answer) -> Option<Offer> {
        let prefix = usable(answer, None)?;
        Some(Offer {
            server: answer.server.clone(),
            preference: answer.preference,
            prefix: (prefix.prefix, prefix.length),
        })
    }
}

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
    Asks(Exchange, Option<Offer>),
    /// Of that server.
    Requests(Exchange, Offer),
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
        match self.phase {
            // What is being given back is not asked for again.
            Phase::Rests | Phase::Releases(_) => self.rest(),
            _ => {
                self.held = None;
                self.phase = self.ask(now);
            }
        }
    }

    fn send(&mut self, now: Instant) -> Option<Vec<u8>> {
        let held = self.held.as_ref();
        let (exchange, server, prefix) = match &mut self.phase {
            Phase::Rests | Phase::Holds => return None,
            Phase::Asks(exchange, _) => (exchange, None, None),
            Phase::Requests(exchange, offer) => {
                (exchange, Some(offer.server.as_slice()), Some(offer.prefix))
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
            (Phase::Asks(..), MessageType::Advertise) => self.offered(&answer, now),
            (Phase::Requests(..), MessageType::Reply) => self.answered(&answer, now),
            (Phase::Extends(..), MessageType::Reply) => self.extended(&answer, now),
            (Phase::Releases(..), MessageType::Reply) => self.rest(),
            _ => {}
        }
    }

    /// Section 18.2.9.
    fn offered(&mut self, answer: &Answer, now: Instant) {
        let Phase::Asks(exchange, best) = &mut self.phase else {
            return;
        };
        let Some(offer) = Offer::of(answer) else {
            // With another's offer in hand it is no matter.
            if best.is_none() {
                self.notice = Some(refusal(answer));
            }
            return;
        };
        let is_decided = offer.preference == PREFERENCE_MAX || exchange.sent > 1;
        if is_decided {
            self.phase = Phase::Requests(self.begin(REQUEST, now), offer);
        } else if best
            .as_ref()
            .is_none_or(|best| best.preference < offer.preference)
        {
            *best = Some(offer);
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
    fn extended(&mut self, answer: &Answer, now: Instant) {
        let Some(present) = self.lease() else {
            return;
        };
        if answer.association_status == Status::NoBinding {
            let again = Offer {
                server: answer.server.clone(),
                preference: answer.preference,
                prefix: (present.prefix, present.length),
            };
            self.phase = Phase::Requests(self.begin(REQUEST, now), again);
            return;
        }
        let is_taken_away = answer.prefixes.iter().flatten().any(|one| {
            (one.prefix, one.length) == (present.prefix, present.length) && one.valid == 0
        });
        match usable(answer, Some(&present)) {
            Some(prefix) => self.take(answer, prefix, now),
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
        let after = |seconds: u32| match seconds {
            FOREVER => None,
            seconds => Some(now + Duration::from_secs(u64::from(seconds)).max(RENEW_AFTER_MIN)),
        };
        let (renew, rebind) = extension_times(answer.times, &given);
        self.held = Some(Held {
            lease: Lease {
                prefix: given.prefix,
                length: given.length,
                preferred_until: until(given.preferred),
                valid_until: until(given.valid),
            },
            server: answer.server.clone(),
            renew_at: after(renew),
            rebind_at: after(rebind),
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

/// T1 and T2 in seconds, T1 no later than T2; `FOREVER` for never (section 7.7). What a server leaves to the client
/// (section 14.2), or says beyond the lifetime, when it is too late, is 0.5 and 0.8 of what is preferred
/// (section 21.21), or fits the other.
fn extension_times(said: (u32, u32), given: &Offered) -> (u32, u32) {
    let basis = match given.preferred {
        0 => given.valid,
        preferred => preferred,
    };
    let part = |of: u32, eighths: u32| match of {
        FOREVER => FOREVER,
        of => of / 8 * eighths + of % 8 * eighths / 8,
    };
    let in_time = |said: u32, end: u32| said == FOREVER || (said > 0 && said < end);
    let t2 = Some(said.1).filter(|t2| in_time(*t2, given.valid));
    let t1 = match said.0 {
        t1 if in_time(t1, basis) => t1,
        _ => part(basis, 4).min(part(t2.unwrap_or(FOREVER), 5)),
    };
    let t2 = t2.unwrap_or(match (t1, basis) {
        (FOREVER, _) | (_, FOREVER) => FOREVER,
        (t1, basis) => t1 + (basis - t1) / 5 * 3 + (basis - t1) % 5 * 3 / 5,
    });
    (t1, t2)
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
mod tests;
