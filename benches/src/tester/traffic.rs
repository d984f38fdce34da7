//! Trials: paced frames from one port or both, and what arrived of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gate64_dataplane::memory::hash::Rng;
use hdrhistogram::Histogram;

use super::TesterError;
use super::flow::{Endpoint, Flow, Flows, Permutation};
use super::frame::{self, FRAME_LEN_MAX, Message, Received, Tag};
use super::ports::{Full, Ports, Role};
use crate::flows::Choice;

/// Sending may take that much longer than it should (a part in a thousand), and a little.
const LATE_PART: u64 = 1000;
const LATE_NANOS: u64 = 2_000_000;
/// What a four-tuple holds that was not seen yet.
const UNSEEN: u64 = u64::MAX;
/// Longest delay that is told apart, in nanoseconds.
const DELAY_MAX: u64 = 60_000_000_000;
/// Wrong frames are reported by the first.
type Wrong = Option<String>;

/// What one trial gave. Index 0 is what the initiator sent, 1 what the responder sent.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Frames sent.
    pub sent: [u64; 2],
    /// Of these, arrived at the other port, each once.
    pub received: [u64; 2],
    /// Whether the tester kept the rate.
    pub on_time: bool,
    /// Delays in nanoseconds.
    pub delay: Histogram<u64>,
}

impl Trial {
    /// No more than this part was lost, and the tester was on time.
    pub fn passed(&self, loss_tolerance: f64) -> bool {
        self.on_time && self.loss() <= loss_tolerance
    }

    /// Frames lost to frames sent.
    pub fn loss(&self) -> f64 {
        let sent: u64 = self.sent.iter().sum();
        let received: u64 = self.received.iter().sum();
        (sent - received.min(sent)) as f64 / sent.max(1) as f64
    }
}

/// How flows are chosen for the frames of one port.
enum Order {
    /// Each once, pseudorandom.
    Permuted(Permutation),
    /// Each once, as they are numbered.
    Linear,
    /// Any, drawn by chance.
    Drawn(Choice, Rng),
}

/// Frames of one port in a trial.
struct Stream {
    role: Role,
    rate: f64,
    count: u64,
    order: Order,
    sent: u64,
    finished_at: u64,
}

impl Stream {
    fn new(role: Role, rate: f64, count: u64, order: Order) -> Stream {
        Stream {
            role,
            rate,
            count,
            order,
            sent: 0,
            finished_at: 0,
        }
    }

    /// When frame `number` is due, in nanoseconds from the start.
    #[allow(clippy::cast_possible_truncation)] // a time of hours at most
    fn due(&self, number: u64) -> u64 {
        (number as f64 * 1e9 / self.rate) as u64
    }

    fn is_late(&self) -> bool {
        let nominal = self.due(self.count.saturating_sub(1));
        self.finished_at > nominal + nominal / LATE_PART + LATE_NANOS
    }
}

/// A tester: its ports, its flows and its state table.
pub struct Tester {
    ports: Box<dyn Ports>,
    flows: Flows,
    payload_len: usize,
    /// How phase 2 draws its flows.
    choice: Choice,
    /// After the last frame of a trial, in nanoseconds (RFC 2544 section 23: two seconds).
    timeout: u64,
    run: u16,
    seed: u64,
    /// By flow: the address and port under which the responder sees it.
    state_table: Vec<u64>,
    /// By flow: the run in which it last arrived, to tell duplicates.
    arrived: Vec<u16>,
    stop: Arc<AtomicBool>,
    out: Box<[u8; FRAME_LEN_MAX]>,
}

impl Tester {
    /// A tester for frames of `frame_octets` on the initiator's side of a NAT64.
    pub fn new(
        ports: Box<dyn Ports>,
        flows: Flows,
        timeout: std::time::Duration,
        stop: Arc<AtomicBool>,
    ) -> Tester {
        Tester {
            ports,
            payload_len: frame::TAG_LEN,
            choice: Choice::Uniform,
            timeout: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            run: 0,
            seed: 1,
            state_table: vec![UNSEEN; flows.count as usize],
            arrived: vec![0; flows.count as usize],
            flows,
            stop,
            out: Box::new([0; FRAME_LEN_MAX]),
        }
    }

    /// Takes other flows; the state table begins anew.
    pub fn set_flows(&mut self, flows: Flows) {
        self.flows = flows;
        self.state_table = vec![UNSEEN; flows.count as usize];
        self.arrived = vec![0; flows.count as usize];
    }

    /// Sends frames of this length from now on, counted on the IPv6 side with check sequence.
    pub fn set_frame_octets(&mut self, octets: usize) {
        self.payload_len = frame::payload_len(octets);
        self.out.fill(0);
    }

    /// Draws flows like this from now on, where they are drawn by chance.
    pub fn set_choice(&mut self, choice: Choice) {
        self.choice = choice;
    }

    /// The ports.
    pub fn ports(&mut self) -> &mut dyn Ports {
        &mut *self.ports
    }

    /// What frames are made of, for the report.
    pub(super) fn describe(&self) -> Vec<(String, String)> {
        let line = |key: &str, value: String| (key.to_owned(), value);
        let flows = &self.flows;
        let (first, last) = (flows.flow(0), flows.flow(flows.count - 1));
        vec![
            line("frames carry", flows.carries.name().into()),
            line("sessions of a client", flows.per_client.to_string()),
            line(
                "first and last flow",
                format!(
                    "{} to {}, {} to {}",
                    first.client, first.server_as_seen, last.client, last.server_as_seen
                ),
            ),
            line(
                "wait for the last frames",
                format!("{} s", self.timeout as f64 / 1e9),
            ),
        ]
    }

    /// Number of flows.
    pub fn flow_count(&self) -> u32 {
        self.flows.count
    }

    /// Empties the device's table and the tester's; gives the seconds that the device took.
    pub fn clear(&mut self) -> Result<f64, TesterError> {
        let seconds = self.ports.clear()?;
        self.state_table.fill(UNSEEN);
        Ok(seconds)
    }

    /// Test phase 1: each flow once in pseudorandom order, from the initiator.
    pub fn phase1(&mut self, rate: f64) -> Result<Trial, TesterError> {
        self.seed += 1;
        let order = Order::Permuted(Permutation::new(self.flows.count, self.seed));
        self.run(vec![Stream::new(
            Role::Initiator,
            rate,
            self.flows.count.into(),
            order,
        )])
    }

    /// Validation: one frame from the responder over each session, in order.
    pub fn validate(&mut self, rate: f64) -> Result<Trial, TesterError> {
        self.run(vec![Stream::new(
            Role::Responder,
            rate,
            self.flows.count.into(),
            Order::Linear,
        )])
    }

    /// Test phase 2: established flows at random from both sides, each at this rate.
    pub fn phase2(&mut self, rate: f64, seconds: f64) -> Result<Trial, TesterError> {
        self.seed += 1;
        let count = whole(rate * seconds).max(1);
        let choice = self.choice;
        let stream = |role: Role, seed: u64| {
            Stream::new(role, rate, count, Order::Drawn(choice, Rng::new(seed)))
        };
        let seed = self.seed << 1;
        self.run(vec![
            stream(Role::Initiator, seed),
            stream(Role::Responder, seed | 1),
        ])
    }

    /// Phase 1 at a rate that the device can take, found from `rate` downwards.
    pub fn fill(&mut self, rate: f64) -> Result<f64, TesterError> {
        let mut rate = rate;
        let mut trial = self.phase1(rate)?;
        for _ in 0..8 {
            if trial.sent == trial.received {
                return Ok(rate);
            }
            rate /= 2.0;
            trial = self.phase1(rate)?;
        }
        Err(TesterError::NotFilled {
            made: trial.received[0],
            wanted: self.flows.count.into(),
            rate,
            said: self
                .ports
                .drops()
                .map_or(String::new(), |said| format!("; it dropped {said}")),
        })
    }

    /// A few frames there and back, before anything is measured. The first may be lost to
    /// address resolution.
    pub fn greet(&mut self) -> Result<(), TesterError> {
        const FRAMES: u64 = 16;
        const TRIES: u32 = 4;
        let count = FRAMES.min(self.flows.count.into());
        for role in Role::ALL {
            let mut last = None;
            for _ in 0..TRIES {
                let trial = self.run(vec![Stream::new(role, 1000.0, count, Order::Linear)])?;
                let (sent, received) = (trial.sent[role.index()], trial.received[role.index()]);
                last = Some((sent, received));
                if sent == received {
                    break;
                }
            }
            match last {
                Some((sent, received)) if sent == received => {}
                Some((sent, 0)) => {
                    return Err(TesterError::Silent {
                        from: role,
                        sent: sent * u64::from(TRIES),
                    });
                }
                Some((sent, received)) => {
                    return Err(TesterError::Wrong(format!(
                        "of {sent} frames from the {}, at 1000 in a second, {received} arrived",
                        role.name()
                    )));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, mut streams: Vec<Stream>) -> Result<Trial, TesterError> {
        self.run = self.run.wrapping_add(1).max(1);
        let once = matches!(
            streams[..],
            [Stream {
                order: Order::Permuted(_) | Order::Linear,
                ..
            }]
        );
        let start = self.ports.now();
        let mut receiver = Receiver {
            flows: self.flows,
            run: self.run,
            payload_len: self.payload_len,
            once,
            state_table: std::mem::take(&mut self.state_table),
            arrived: std::mem::take(&mut self.arrived),
            received: [0; 2],
            delay: Histogram::new_with_max(DELAY_MAX, 3)
                .unwrap_or_else(|_| unreachable!("the bounds are constants")),
            wrong: None,
        };
        let result = self.drive(&mut streams, start, &mut receiver);
        self.state_table = receiver.state_table;
        self.arrived = receiver.arrived;
        result?;
        let mut sent = [0; 2];
        for stream in &streams {
            sent[stream.role.index()] = stream.sent;
        }
        Ok(Trial {
            sent,
            received: receiver.received,
            on_time: !streams.iter().any(Stream::is_late),
            delay: receiver.delay,
        })
    }

    /// Sends what is due and takes what arrives, until all has arrived or time is over.
    fn drive(
        &mut self,
        streams: &mut [Stream],
        start: u64,
        receiver: &mut Receiver,
    ) -> Result<(), TesterError> {
        let total: u64 = streams.iter().map(|stream| stream.count).sum();
        loop {
            let elapsed = self.ports.now() - start;
            let mut next_due = u64::MAX;
            for stream in streams.iter_mut() {
                self.send_due(stream, start, elapsed, &receiver.state_table);
                if stream.sent < stream.count {
                    next_due = next_due.min(stream.due(stream.sent));
                }
            }
            let all_sent = next_due == u64::MAX;
            let end = streams
                .iter()
                .map(|stream| stream.finished_at)
                .max()
                .unwrap_or(0)
                + self.timeout;
            let until = start + if all_sent { end } else { next_due };
            self.ports.turn(until, &mut |role, frame, now| {
                receiver.take(role, frame, now)
            });
            if let Some(what) = receiver.wrong.take() {
                return Err(TesterError::Wrong(what));
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(TesterError::Interrupted);
            }
            let all_there = receiver.received.iter().sum::<u64>() >= total;
            if all_sent && (all_there || self.ports.now() - start >= end) {
                return Ok(());
            }
        }
    }

    fn send_due(&mut self, stream: &mut Stream, start: u64, elapsed: u64, state_table: &[u64]) {
        for _ in 0..self.ports.burst_max() {
            if stream.sent >= stream.count || stream.due(stream.sent) > elapsed {
                return;
            }
            let number = stream.sent;
            let count = self.flows.count;
            let place = u32::try_from(number % u64::from(count)).unwrap_or(0);
            let flow_number = match &mut stream.order {
                Order::Permuted(permutation) => permutation.at(place),
                Order::Linear => place,
                Order::Drawn(choice, rng) => {
                    u32::try_from(choice.pick(rng, count.into())).unwrap_or(0)
                }
            };
            let flow = self.flows.flow(flow_number);
            let ends = match stream.role {
                Role::Initiator => (flow.client, flow.server_as_seen),
                Role::Responder => (
                    flow.server,
                    mapped(&flow, state_table[flow_number as usize]),
                ),
            };
            let tag = Tag {
                run: self.run,
                flow: flow_number,
                sent_at: self.ports.now(),
            };
            let link = self.ports.link(stream.role);
            let message = self.flows.carries.message(stream.role);
            let len = frame::write(&mut self.out, &link, message, ends, &tag, self.payload_len);
            if self.ports.send(stream.role, &self.out[..len]) == Err(Full) {
                return;
            }
            stream.sent += 1;
            stream.finished_at = self.ports.now() - start;
        }
    }
}

/// Where the responder sends to: what it saw, or the client itself where nothing was seen and
/// nothing is mapped.
fn mapped(flow: &Flow, seen: u64) -> Endpoint {
    let is_mapped = flow.server.ip.is_ipv4();
    if !is_mapped || seen == UNSEEN {
        return match flow.client.ip {
            ip if ip.is_ipv4() == is_mapped => flow.client,
            // A frame for a session that never was: to a place where nobody listens.
            _ => Endpoint {
                ip: std::net::Ipv4Addr::new(198, 18, 255, 255).into(),
                port: 9,
            },
        };
    }
    let [_, _, a, b, c, d, high, low] = seen.to_be_bytes();
    Endpoint {
        ip: [a, b, c, d].into(),
        port: u16::from_be_bytes([high, low]),
    }
}

fn packed(seen: Endpoint) -> u64 {
    match seen.ip {
        std::net::IpAddr::V4(ip) => u64::from(u32::from(ip)) << 16 | u64::from(seen.port),
        std::net::IpAddr::V6(_) => u64::from(seen.port),
    }
}

fn named(message: Message) -> &'static str {
    match message {
        Message::Udp => "a UDP datagram",
        Message::EchoRequest => "an echo request",
        Message::EchoReply => "an echo reply",
    }
}

/// A count of frames.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // far below 2^53, not negative
fn whole(count: f64) -> u64 {
    count.round() as u64
}

/// Judges what arrives.
struct Receiver {
    flows: Flows,
    run: u16,
    payload_len: usize,
    /// Each flow is sent once, so a second arrival is a duplicate.
    once: bool,
    state_table: Vec<u64>,
    arrived: Vec<u16>,
    received: [u64; 2],
    delay: Histogram<u64>,
    wrong: Wrong,
}

impl Receiver {
    fn take(&mut self, at: Role, octets: &[u8], now: u64) {
        let Some(got) = frame::read(octets) else {
            return;
        };
        // What comes late from an earlier run counts for nothing.
        if got.tag.run != self.run || got.tag.flow >= self.flows.count {
            return;
        }
        match self.judge(at, &got) {
            Ok(()) => {
                self.received[at.other().index()] += 1;
                self.delay
                    .saturating_record(now.saturating_sub(got.tag.sent_at));
            }
            Err(what) => {
                self.wrong.get_or_insert(what);
            }
        }
    }

    fn judge(&mut self, at: Role, got: &Received) -> Result<(), String> {
        let flow = self.flows.flow(got.tag.flow);
        let place = got.tag.flow as usize;
        let message = self.flows.carries.message(at.other());
        if got.message != message {
            return Err(format!(
                "{} from {} to {} arrived as {}",
                named(message),
                got.src,
                got.dst,
                named(got.message)
            ));
        }
        let wanted = match at {
            Role::Initiator => (Some(flow.server_as_seen), flow.client),
            Role::Responder => (None, flow.server),
        };
        if got.dst != wanted.1 || wanted.0.is_some_and(|src| src != got.src) {
            let from = wanted.0.map_or(String::new(), |src| format!(" from {src}"));
            return Err(format!(
                "a frame{from} to {} arrived as one from {} to {}",
                wanted.1, got.src, got.dst
            ));
        }
        if got.payload_len != self.payload_len {
            return Err(format!(
                "a frame from {} to {} arrived with {} octets of payload instead of {}",
                got.src, got.dst, got.payload_len, self.payload_len
            ));
        }
        if !got.checksum_is_right {
            return Err(format!(
                "{} from {} to {} arrived with a wrong checksum",
                named(got.message),
                got.src,
                got.dst
            ));
        }
        if self.once && std::mem::replace(&mut self.arrived[place], self.run) == self.run {
            return Err(format!(
                "a frame from {} to {} arrived twice",
                got.src, got.dst
            ));
        }
        if at == Role::Responder {
            self.note(place, got.src, &flow)?;
        }
        Ok(())
    }

    /// Writes the state table. A session may not move (RFC 4787 section 4.1), and a router has none.
    fn note(&mut self, place: usize, src: Endpoint, flow: &Flow) -> Result<(), String> {
        let seen = packed(src);
        let before = std::mem::replace(&mut self.state_table[place], seen);
        if flow.server.ip.is_ipv6() && src != flow.client {
            return Err(format!(
                "a router made a frame from {} one from {src}",
                flow.client
            ));
        }
        if before != UNSEEN && before != seen {
            return Err(format!(
                "the session of {} moved from {} to {src}",
                flow.client,
                mapped(flow, before)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
