//! The tester against devices that are scripts.

use std::collections::VecDeque;
use std::time::Duration;

use gate64_wire::rfc6052::Pref64;

use super::super::flow::Kind;
use super::super::ports::Take;
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
    fn describe(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

const FLOWS: u32 = 100;

fn tester(device: Device) -> Tester {
    let flows = Flows::new(Kind::Nat64(Pref64::WELL_KNOWN), FLOWS, 10).unwrap();
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
    let mut out = [0; FRAME_LEN_MAX];
    let len = frame::write(&mut out, &[2; 12], (src, dst), &tag, payload_len);
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
    let flows = Flows::new(Kind::Nat64(Pref64::WELL_KNOWN), FLOWS, 10).unwrap();
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
        let flows = Flows::new(Kind::Nat64(Pref64::WELL_KNOWN), FLOWS, 10).unwrap();
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
        let flows = Flows::new(Kind::Nat64(Pref64::WELL_KNOWN), FLOWS, 10).unwrap();
        let mut frame = written(
            pool(got.tag.flow, 0),
            flows.flow(got.tag.flow).server,
            got.tag,
            18,
        );
        frame[41] ^= 1;
        out.push((role.other(), frame));
    });
    assert!(wrong(broken).contains("wrong UDP checksum"));
}

#[test]
fn an_interrupt_ends_a_trial() {
    let mut tester = tester(nat64(|_| 0, |_| false));
    tester.stop.store(true, Ordering::Relaxed);
    assert!(matches!(tester.phase1(1e4), Err(TesterError::Interrupted)));
}
