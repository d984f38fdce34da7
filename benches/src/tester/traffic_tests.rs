//! The tester against devices that are scripts.

use std::collections::VecDeque;
use std::time::Duration;

use gate64_wire::rfc6052::Pref64;

use super::super::flow::{Carries, Kind};
use super::super::ports::{Take, Workers};
use super::*;

/// What a device makes of a frame that arrived.
type Device = Box<dyn FnMut(Role, Received, &mut Vec<(Role, Vec<u8>)>)>;

/// A device that forwards in no time, as its script says, over a clock that only waiting moves.
struct Script {
    now: u64,
    device: Device,
    leaving: VecDeque<(Role, Vec<u8>)>,
}

impl Ports for Script {
    fn now(&self) -> u64 {
        self.now
    }
    fn link(&self, _: Role) -> [u8; 12] {
        [2; 12]
    }
    fn send(&mut self, role: Role, frame: &[u8]) -> Result<(), Full> {
        let mut out = Vec::new();
        (self.device)(role, frame::read(frame).unwrap(), &mut out);
        self.leaving.extend(out);
        Ok(())
    }
    fn burst_max(&self) -> u64 {
        32
    }
    fn drops(&mut self) -> Option<String> {
        None
    }
    fn turn(&mut self, until: u64, take: &mut Take) {
        for (role, frame) in self.leaving.drain(..) {
            take(role, &frame, self.now);
        }
        self.now = until.max(self.now + 1);
    }
    fn can_clear(&self) -> bool {
        false
    }
    fn clear(&mut self) -> Result<f64, TesterError> {
        Err(TesterError::Clear("a script".into()))
    }
    fn workers_max(&self) -> Option<usize> {
        None
    }
    fn workers(&mut self, _: u8, _: u32) -> Result<Workers, TesterError> {
        Ok(Workers::Set)
    }
    fn describe(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

const FLOWS: u32 = 100;

fn flows_of(carries: Carries) -> Flows {
    Flows::new(Kind::Nat64(Pref64::WELL_KNOWN), carries, FLOWS, 10).unwrap()
}

fn tester(device: Device) -> Tester {
    tester_of(Carries::Udp, device)
}

fn tester_of(carries: Carries, device: Device) -> Tester {
    let flows = flows_of(carries);
    let ports = Script {
        now: 0,
        device,
        leaving: VecDeque::new(),
    };
    Tester::new(
        Box::new(ports),
        flows,
        Duration::from_millis(100),
        Arc::default(),
    )
}

fn written(src: Endpoint, dst: Endpoint, tag: Tag, payload_len: usize) -> Vec<u8> {
    written_as(Message::Udp, (src, dst), tag, payload_len)
}

fn written_as(
    message: Message,
    ends: (Endpoint, Endpoint),
    tag: Tag,
    payload_len: usize,
) -> Vec<u8> {
    let mut out = [0; FRAME_LEN_MAX];
    let len = frame::write(&mut out, &[2; 12], message, ends, &tag, payload_len);
    out[..len].to_vec()
}

/// Port of the pool by flow, so that the script needs no table.
fn pool(flow: u32, shift: u16) -> Endpoint {
    Endpoint {
        ip: [192, 0, 2, 1].into(),
        port: 2000 + u16::try_from(flow).unwrap() + shift,
    }
}

/// A NAT64; `shift` of the number of frames so far moves its mappings.
fn nat64(mut shift: impl FnMut(u64) -> u16 + 'static, loses: fn(u64) -> bool) -> Device {
    let flows = flows_of(Carries::Udp);
    let mut count = 0;
    Box::new(move |role, got, out| {
        count += 1;
        if loses(count) {
            return;
        }
        let flow = flows.flow(got.tag.flow);
        let frame = match role {
            Role::Initiator => {
                assert_eq!((got.src, got.dst), (flow.client, flow.server_as_seen));
                written(
                    pool(got.tag.flow, shift(count)),
                    flow.server,
                    got.tag,
                    got.payload_len,
                )
            }
            Role::Responder => {
                assert_eq!((got.src, got.dst), (flow.server, pool(got.tag.flow, 0)));
                written(flow.server_as_seen, flow.client, got.tag, got.payload_len)
            }
        };
        out.push((role.other(), frame));
    })
}

#[test]
fn a_right_device_passes_every_phase() {
    let mut tester = tester(nat64(|_| 0, |_| false));
    tester.greet().unwrap();
    for octets in [84, 1518] {
        tester.set_frame_octets(octets);
        let made = tester.phase1(1e4).unwrap();
        assert!(made.passed(0.0), "{made:?}");
        assert_eq!(made.received, [u64::from(FLOWS), 0]);
        let validated = tester.validate(1e4).unwrap();
        assert_eq!(validated.received, [0, u64::from(FLOWS)]);
        let both = tester.phase2(1e5, 0.01).unwrap();
        assert_eq!((both.sent, both.received), ([1000, 1000], [1000, 1000]));
    }
}

/// A NAT64 for echoes, whose replies are `reply`.
fn nat64_of_echoes(reply: Message) -> Device {
    let flows = flows_of(Carries::Echo);
    Box::new(move |role, got, out| {
        let flow = flows.flow(got.tag.flow);
        let mapped = pool(got.tag.flow, 0);
        let (message, ends) = match role {
            Role::Initiator => {
                assert_eq!((got.src, got.message), (flow.client, Message::EchoRequest));
                (Message::EchoRequest, (mapped, flow.server))
            }
            Role::Responder => {
                assert_eq!((got.dst, got.message), (mapped, Message::EchoReply));
                (reply, (flow.server_as_seen, flow.client))
            }
        };
        let frame = written_as(message, ends, got.tag, got.payload_len);
        out.push((role.other(), frame));
    })
}

#[test]
fn echoes_pass_every_phase_and_a_reply_is_no_request() {
    let mut right = tester_of(Carries::Echo, nat64_of_echoes(Message::EchoReply));
    right.greet().unwrap();
    right.set_choice(Choice::Zipf);
    assert!(right.phase1(1e4).unwrap().passed(0.0));
    assert!(right.validate(1e4).unwrap().passed(0.0));
    assert!(right.phase2(1e5, 0.01).unwrap().passed(0.0));
    let mut wrong = tester_of(Carries::Echo, nat64_of_echoes(Message::EchoRequest));
    let error = wrong.greet().unwrap_err().to_string();
    assert!(error.contains("an echo reply from"), "{error}");
    assert!(error.contains("arrived as an echo request"), "{error}");
}

/// Of the frames of both sides, how many carry the most frequent flow.
fn most_frequent(choice: Choice) -> usize {
    let counts = std::rc::Rc::new(std::cell::RefCell::new([0; FLOWS as usize]));
    let seen = std::rc::Rc::clone(&counts);
    let mut device = nat64(|_| 0, |_| false);
    let counting: Device = Box::new(move |role, got, out| {
        seen.borrow_mut()[got.tag.flow as usize] += 1;
        device(role, got, out);
    });
    let mut tester = tester(counting);
    tester.phase1(1e4).unwrap();
    tester.set_choice(choice);
    assert!(tester.phase2(1e5, 0.05).unwrap().passed(0.0));
    let counts = counts.borrow();
    counts.iter().copied().max().unwrap()
}

#[test]
fn popular_flows_are_popular() {
    // Of 10000 frames over 100 flows: a hundredth each, or a fifth for the first of Zipf's.
    assert!(most_frequent(Choice::Uniform) < 200);
    assert!(most_frequent(Choice::Zipf) > 1200);
}

#[test]
fn loss_is_counted_and_fails_the_trial() {
    let mut tester = tester(nat64(|_| 0, |count| count % 10 == 0));
    let trial = tester.phase1(1e4).unwrap();
    assert!(!trial.passed(0.0) && trial.on_time);
    assert!((trial.loss() - 0.1).abs() < 1e-9);
    let error = tester.fill(1e4).unwrap_err().to_string();
    assert!(error.contains("90 of 100 sessions"), "{error}");
}

#[test]
fn a_silent_device_is_named() {
    let error = tester(Box::new(|_, _, _| ())).greet().unwrap_err();
    assert!(matches!(
        error,
        TesterError::Silent {
            from: Role::Initiator,
            ..
        }
    ));
    assert!(error.to_string().contains("answers nothing"), "{error}");
    let one_way = nat64(|_| 0, |_| false);
    let mut one_way = Some(one_way);
    let mut device = one_way.take().unwrap();
    let half: Device = Box::new(move |role, got, out| {
        if role == Role::Initiator {
            device(role, got, out);
        }
    });
    let error = tester(half).greet().unwrap_err();
    assert!(matches!(
        error,
        TesterError::Silent {
            from: Role::Responder,
            ..
        }
    ));
}

fn wrong(device: Device) -> String {
    let mut tester = tester(device);
    let result = tester.phase1(1e4).and_then(|_| tester.phase1(1e4));
    match result {
        Err(TesterError::Wrong(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_answers_are_named() {
    let said = wrong(nat64(|count| u16::from(count > 150), |_| false));
    assert!(said.contains("moved from 192.0.2.1:"), "{said}");
    let twice: Device = Box::new(|role, got, out| {
        let flows = flows_of(Carries::Udp);
        let frame = written(
            pool(got.tag.flow, 0),
            flows.flow(got.tag.flow).server,
            got.tag,
            18,
        );
        out.push((role.other(), frame.clone()));
        out.push((role.other(), frame));
    });
    assert!(wrong(twice).contains("arrived twice"));
    let elsewhere: Device = Box::new(|role, got, out| {
        let frame = written(pool(got.tag.flow, 0), pool(1, 0), got.tag, 18);
        out.push((role.other(), frame));
    });
    assert!(wrong(elsewhere).contains("arrived as one from"));
    let broken: Device = Box::new(|role, got, out| {
        let flows = flows_of(Carries::Udp);
        let mut frame = written(
            pool(got.tag.flow, 0),
            flows.flow(got.tag.flow).server,
            got.tag,
            18,
        );
        frame[41] ^= 1;
        out.push((role.other(), frame));
    });
    assert!(wrong(broken).contains("wrong checksum"));
}

#[test]
fn an_interrupt_ends_a_trial() {
    let mut tester = tester(nat64(|_| 0, |_| false));
    tester.stop.store(true, Ordering::Relaxed);
    assert!(matches!(tester.phase1(1e4), Err(TesterError::Interrupted)));
}
