//! Two engines that share a pool: packets, fragments and errors arrive at either, and reach the
//! one that owns their session.
#![allow(missing_docs)]

mod support;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use gate64_dataplane::counters::{self, CounterId};
use gate64_dataplane::memory::HashKey;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::verdict::{DropReason, HandoffReason, Side, WorkerId};
use gate64_wire::addr::Protocol;

use support::fragments::{ORDERS, cut_v4, cut_v6, gather_v4, gather_v6};
use support::packets::{error4, error6, judged, ping6, pong4, udp4, udp6};
use support::{Gateway, Outcome, SERVER, config, embedded};

/// Hand-offs that one packet may need: to who gathers its fragments, to the owner, and for a
/// hairpin the same again.
const MOVES_MAX: usize = 4;

struct Pair {
    workers: [Gateway; 2],
    shared: Shared,
    moves: u64,
}

impl Pair {
    /// With one pool address, whose blocks are shared out, or with sixteen that are.
    fn new(pool_length: u8) -> Pair {
        let mut config = config();
        config.pool4[0].length = pool_length;
        config.pool4[0].address = [192, 0, 2, 16].into();
        let settings = Settings {
            key: HashKey::seeded(1),
            seed: 1,
            ..Settings::new(2, 200)
        };
        let shared = Shared::new(Arc::new(config), settings);
        Pair {
            workers: [0, 1].map(|worker| Gateway::of_worker(&shared, WorkerId(worker))),
            shared,
            moves: 0,
        }
    }

    /// A client whose sessions that worker owns.
    fn client_of(&self, worker: u8) -> Ipv6Addr {
        let mut all = (0..64).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 1, n, 0, 0, 0, 0x10));
        all.find(|ip| self.shared.ownership.of_v6(*ip) == WorkerId(worker))
            .expect("each worker has some of 64")
    }

    /// A packet arrives at a worker: what leaves of it, from whichever worker.
    #[track_caller]
    fn put(&mut self, at: usize, side: Side, bytes: &[u8]) -> Vec<(Side, Vec<u8>)> {
        let mut left = Vec::new();
        let mut work = VecDeque::from([(at, side, bytes.to_vec(), 0)]);
        while let Some((at, side, bytes, moves)) = work.pop_front() {
            assert!(moves <= MOVES_MAX, "it goes round");
            let worker = &mut self.workers[at];
            let outcome = match moves {
                0 => worker.put(side, &bytes),
                _ => worker.put_handed_off(side, &bytes),
            };
            for one in [outcome].into_iter().chain(worker.outgoing()) {
                match one {
                    Outcome::Sent(side, bytes) => left.push((side, bytes)),
                    Outcome::HandedOff(WorkerId(to), side, bytes) => {
                        assert_ne!(usize::from(to), at, "to itself");
                        self.moves += 1;
                        work.push_back((usize::from(to), side, bytes, moves + 1));
                    }
                    Outcome::Held => {}
                    Outcome::Dropped(reason) => panic!("{reason:?}"),
                }
            }
        }
        left
    }

    /// As [`Pair::put`], of a packet that leaves as one on this side.
    #[track_caller]
    fn carries(&mut self, at: usize, from: Side, bytes: &[u8], to: Side) -> Vec<u8> {
        let mut left = self.put(at, from, bytes);
        assert_eq!(left.len(), 1);
        let (side, bytes) = left.remove(0);
        assert_eq!(side, to);
        bytes
    }

    fn count(&mut self, id: CounterId) -> u64 {
        self.workers.iter_mut().map(|worker| worker.count(id)).sum()
    }

    /// Nothing waits, and every hand-off was counted.
    #[track_caller]
    fn is_settled(&mut self) {
        for worker in &self.workers {
            worker.nat64.check_invariants();
        }
        assert_eq!(self.count(counters::fragments_held(0)), 0);
        let counted = self.count(counters::packets_handed_off(0))
            + self.count(counters::packets_handed_off(1));
        assert_eq!(counted, self.moves);
        let reasons = HandoffReason::ALL.map(|reason| self.handoffs(reason));
        assert_eq!(reasons.iter().sum::<u64>(), self.moves);
    }

    fn handoffs(&mut self, reason: HandoffReason) -> u64 {
        self.count(counters::handoffs(reason as usize))
    }
}

/// Every way in which three fragments can arrive at two workers.
fn arrivals() -> impl Iterator<Item = [usize; 3]> {
    (0..8).map(|n| [n & 1, n >> 1 & 1, n >> 2 & 1])
}

/// What leaves of three fragments that arrive in this order at these workers.
#[track_caller]
fn all_of(
    pair: &mut Pair,
    from: Side,
    to: Side,
    parts: &[Vec<u8>],
    (order, at): ([usize; 3], [usize; 3]),
) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (part, at) in order.into_iter().zip(at) {
        for (side, bytes) in pair.put(at, from, &parts[part]) {
            assert_eq!(side, to);
            out.push(bytes);
        }
    }
    assert_eq!(out.len(), 3);
    pair.is_settled();
    out
}

const PAYLOAD: [u8; 100] = [0x5a; 100];
const POOLS: [u8; 2] = [32, 28];

#[test]
fn packets_arrive_at_either_worker() {
    for pool in POOLS {
        let mut pair = Pair::new(pool);
        for owner in 0..2 {
            let client = pair.client_of(owner);
            for at in 0..2 {
                let packet = udp6((client, 5000), (embedded(SERVER), 53), b"question");
                let out = pair.carries(at, Side::V6, &packet, Side::V4);
                let (IpAddr::V4(mapped), _, port, ..) = judged(&out) else {
                    panic!("not IPv4")
                };
                let answer = udp4((SERVER, 53), (mapped, port), b"answer");
                for at in 0..2 {
                    let back = pair.carries(at, Side::V4, &answer, Side::V6);
                    assert_eq!(judged(&back).1, IpAddr::V6(client));
                }
            }
            let sessions = pair.workers[usize::from(owner)].sessions(Protocol::Udp);
            assert_eq!(sessions, 1, "the owner's alone");
        }
        // Of six packets for each owner three came to the other worker.
        assert_eq!(pair.moves, 6);
        pair.is_settled();
    }
}

#[test]
fn fragments_from_ipv4_in_every_order_at_either_worker() {
    for pool in POOLS {
        let mut pair = Pair::new(pool);
        let mut id = 0;
        for owner in 0..2 {
            let client = pair.client_of(owner);
            let open = udp6((client, 5000), (embedded(SERVER), 53), b"open");
            let open = pair.carries(0, Side::V6, &open, Side::V4);
            let (IpAddr::V4(mapped), _, port, ..) = judged(&open) else {
                panic!("not IPv4")
            };
            let ping = ping6(client, embedded(SERVER), 77, b"open");
            let query = judged(&pair.carries(1, Side::V6, &ping, Side::V4)).2;
            let with_checksum = udp4((SERVER, 53), (mapped, port), &PAYLOAD);
            let mut without = with_checksum.clone();
            without[26..28].fill(0);
            let reply = pong4(SERVER, mapped, query, &PAYLOAD);
            for whole in [with_checksum, without, reply] {
                for order in ORDERS {
                    for at in arrivals() {
                        id += 1;
                        let parts = cut_v4(&whole, id, &[40, 80]);
                        let out = all_of(&mut pair, Side::V4, Side::V6, &parts, (order, at));
                        let (src, dst, _, port, payload) = judged(&gather_v6(&out));
                        assert_eq!((src, dst), (embedded(SERVER).into(), client.into()));
                        assert!(port == 5000 || port == 77);
                        assert_eq!(payload, PAYLOAD);
                    }
                }
            }
        }
        assert!(pair.moves > u64::from(id), "many moves: {}", pair.moves);
        // Each is received once, by who gathers it, and again by an owner it is handed to.
        assert!(pair.count(counters::fragments_received(1)) >= u64::from(id) * 3);
    }
}

#[test]
fn fragments_from_ipv6_in_every_order_at_either_worker() {
    let mut pair = Pair::new(32);
    let mut id = 0;
    for owner in 0..2 {
        let client = pair.client_of(owner);
        for whole in [
            udp6((client, 5000), (embedded(SERVER), 53), &PAYLOAD),
            ping6(client, embedded(SERVER), 77, &PAYLOAD),
        ] {
            for order in ORDERS {
                for at in arrivals() {
                    id += 1;
                    let parts = cut_v6(&whole, id, &[40, 80]);
                    let out = all_of(&mut pair, Side::V6, Side::V4, &parts, (order, at));
                    let (_, dst, _, _, payload) = judged(&gather_v4(&out));
                    assert_eq!((dst, payload.as_slice()), (SERVER.into(), &PAYLOAD[..]));
                }
            }
        }
    }
    // The owner of the source gathers them: half of all came to the other worker.
    assert_eq!(pair.moves, u64::from(id) * 3 / 2);
    assert_eq!(
        pair.count(counters::fragments_received(0)),
        u64::from(id) * 3
    );
}

/// A client of one worker and a client of the other by the pool's address.
#[test]
fn hairpinned_packets_fragments_and_errors_between_workers() {
    for pool in POOLS {
        for (near, far) in [(0, 1), (1, 0)] {
            let mut pair = Pair::new(pool);
            let (host, other) = (pair.client_of(near), pair.client_of(far));
            let open = udp6((other, 6000), (embedded(SERVER), 1), b"open");
            let open = pair.carries(0, Side::V6, &open, Side::V4);
            let (IpAddr::V4(mapped), _, target, ..) = judged(&open) else {
                panic!("not IPv4")
            };
            let whole = udp6((host, 5000), (embedded(mapped), target), &PAYLOAD);
            for at in 0..2 {
                let got = pair.carries(at, Side::V6, &whole, Side::V6);
                let (IpAddr::V6(shown), dst, _, _, payload) = judged(&got) else {
                    panic!("not IPv6")
                };
                assert_eq!((dst, payload.as_slice()), (other.into(), &PAYLOAD[..]));
                assert_eq!(pair.handoffs(HandoffReason::Hairpin), at as u64 + 1);
                let error = error6((other, shown), (1, 4), [0; 4], &got);
                let error = pair.carries(at, Side::V6, &error, Side::V6);
                let (_, dst, _, _, quoted) = judged(&error);
                assert_eq!((dst, error[40], error[41]), (host.into(), 1, 4));
                assert_eq!(quoted[8..], whole[8..], "as its sender sent it");
            }
            for (id, order) in (1..).zip(ORDERS) {
                for at in arrivals() {
                    let id = id * 8 + u32::try_from(at[0] + 2 * at[1] + 4 * at[2]).unwrap();
                    let parts = cut_v6(&whole, id, &[40, 80]);
                    let out = all_of(&mut pair, Side::V6, Side::V6, &parts, (order, at));
                    let (_, dst, _, port, payload) = judged(&gather_v6(&out));
                    assert_eq!((dst, port), (other.into(), 6000));
                    assert_eq!(payload, PAYLOAD);
                }
            }
            pair.is_settled();
        }
    }
}

/// Errors belong to the session of the packet inside them.
#[test]
fn errors_arrive_at_either_worker() {
    for pool in POOLS {
        let mut pair = Pair::new(pool);
        for owner in 0..2 {
            let client = pair.client_of(owner);
            let packet = udp6((client, 5000), (embedded(SERVER), 53), b"question");
            let sent = pair.carries(0, Side::V6, &packet, Side::V4);
            let (IpAddr::V4(mapped), _, port, ..) = judged(&sent) else {
                panic!("not IPv4")
            };
            let answer = udp4((SERVER, 53), (mapped, port), b"answer");
            let got = pair.carries(0, Side::V4, &answer, Side::V6);
            for at in 0..2 {
                let router = [203, 0, 113, 77].into();
                let error = error4((router, mapped), (11, 0), [0; 4], &sent);
                let out = pair.carries(at, Side::V4, &error, Side::V6);
                assert_eq!(judged(&out).1, IpAddr::V6(client));
                assert_eq!((out[40], out[41]), (3, 0));
                let error = error6((client, embedded(SERVER)), (1, 4), [0; 4], &got);
                let out = pair.carries(at, Side::V6, &error, Side::V4);
                assert_eq!(judged(&out).1, IpAddr::V4(SERVER));
                assert_eq!((out[20], out[21]), (3, 3));
            }
        }
        pair.is_settled();
        // Half of the errors arrive where their session is not.
        assert_eq!(pair.handoffs(HandoffReason::IcmpError), 4);
        assert_eq!(pair.handoffs(HandoffReason::Fragment), 0);
        assert_eq!(pair.count(counters::icmp_errors_translated(0)), 4);
        assert_eq!(pair.count(counters::icmp_errors_translated(1)), 4);
    }
}

/// While workers take over a changed pool, each may take the other for the owner.
#[test]
fn what_was_handed_over_is_not_handed_on() {
    let mut pair = Pair::new(32);
    let client = pair.client_of(1);
    let plain = udp6((client, 5000), (embedded(SERVER), 53), b"x");
    let mut with_options = plain.clone();
    with_options.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
    with_options[6] = 60;
    with_options[5] += 8;
    for bytes in [plain, with_options] {
        let worker = &mut pair.workers[0];
        assert!(matches!(
            worker.put(Side::V6, &bytes),
            Outcome::HandedOff(..)
        ));
        let again = worker.put_handed_off(Side::V6, &bytes);
        assert_eq!(again, Outcome::Dropped(DropReason::HandoffLoop));
    }
}
