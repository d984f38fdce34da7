//! Times by criterion: the steps of a packet's way each by itself, and whole packets in the
//! scenarios of `gate64 bench engine`. Goals are ratios of interleaved runs, which that command
//! measures; this shows where time goes, and what a change did (`cargo bench -- --baseline`).

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gate64_benches::scenario::{Choice, Established, Opening, expiry};
use gate64_dataplane::clock::Tick;
use gate64_dataplane::config::Nat64Config;
use gate64_dataplane::memory::arena::Pages;
use gate64_dataplane::memory::hash::{HashKey, Rng};
use gate64_dataplane::memory::wheel::CHUNK_REFERENCES;
use gate64_dataplane::memory::{Arena, Index, Probe, Wheel};
use gate64_dataplane::packet::{Packet, Window};
use gate64_dataplane::siit::{self, Rules};
use gate64_dataplane::verdict::Side;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::checksum::Sum;
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts};
use gate64_wire::rfc6052::Pref64;

/// A UDP datagram of 18 octets from 2001:db8::1 to 192.0.2.1 in the well-known prefix.
fn datagram_v6() -> [u8; 66] {
    let mut packet = [0; 66];
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 26, 17, 64]);
    packet[8..24].copy_from_slice(
        &"2001:db8::1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    packet[24..40].copy_from_slice(&Pref64::WELL_KNOWN.embed([192, 0, 2, 1].into()).octets());
    packet[40..48].copy_from_slice(&[0x10, 0, 0, 53, 0, 26, 0xbe, 0xef]);
    packet
}

/// The same from 192.0.2.1 to 198.51.100.1.
fn datagram_v4() -> [u8; 46] {
    let mut packet = [0; 46];
    packet[..12].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet[12..20].copy_from_slice(&[192, 0, 2, 1, 198, 51, 100, 1]);
    let checksum = Sum::ZERO.bytes(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet[20..28].copy_from_slice(&[0, 53, 0x10, 0, 0, 26, 0xbe, 0xef]);
    packet
}

fn tuples() -> (Tuple6, Tuple4) {
    let remote = TransportAddr4 {
        ip: [192, 0, 2, 1].into(),
        port: 53,
    };
    let incoming = Tuple6 {
        src: TransportAddr6 {
            ip: "2001:db8::1".parse().unwrap(),
            port: 4096,
        },
        dst: TransportAddr6 {
            ip: Pref64::WELL_KNOWN.embed(remote.ip),
            port: 53,
        },
        protocol: Protocol::Udp,
    };
    let outgoing = Tuple4 {
        src: TransportAddr4 {
            ip: [198, 51, 100, 1].into(),
            port: 2000,
        },
        dst: remote,
        protocol: Protocol::Udp,
    };
    (incoming, outgoing)
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    let (v6, v4) = (datagram_v6(), datagram_v4());
    group.bench_function("parse v6", |bench| {
        bench.iter(|| Ipv6Facts::parse(black_box(&v6)).is_ok());
    });
    group.bench_function("parse v4", |bench| {
        bench.iter(|| Ipv4Facts::parse(black_box(&v4)).is_ok());
    });
    let long = [0x5a; 1460];
    for octets in [20, 1460] {
        group.bench_with_input(
            BenchmarkId::new("checksum", octets),
            &octets,
            |bench, &n| {
                bench.iter(|| Sum::ZERO.bytes(black_box(&long[..n])).checksum());
            },
        );
    }
    let key = HashKey::seeded(1);
    let (incoming, outgoing) = tuples();
    group.bench_function("hash", |bench| {
        bench.iter(|| key.transport(black_box(incoming.src.ip), incoming.src.port, 17));
    });
    group.bench_function("checksum delta", |bench| {
        bench.iter(|| siit::l4_delta(black_box(&incoming), black_box(&outgoing)));
    });
    let rules = Rules::new(&Nat64Config::default());
    let delta = siit::l4_delta(&incoming, &outgoing);
    let mut chunk = [0; 256];
    group.bench_function("write v4", |bench| {
        bench.iter(|| {
            chunk[128..194].copy_from_slice(&v6);
            let mut window = Window {
                start: 128,
                len: 66,
            };
            let mut packet = Packet::new(&mut chunk, &mut window).unwrap();
            let facts = Ipv6Facts::parse(packet.bytes()).unwrap();
            siit::v6_to_v4(&mut packet, &facts, &outgoing, delta, &rules, 1);
        });
    });
    let reverse = Tuple6 {
        src: incoming.dst,
        dst: incoming.src,
        protocol: Protocol::Udp,
    };
    group.bench_function("write v6", |bench| {
        bench.iter(|| {
            chunk[128..174].copy_from_slice(&v4);
            let mut window = Window {
                start: 128,
                len: 46,
            };
            let mut packet = Packet::new(&mut chunk, &mut window).unwrap();
            let facts = Ipv4Facts::parse(packet.bytes()).unwrap();
            siit::v4_to_v6(&mut packet, &facts, &reverse, delta.reverse(), &rules);
        });
    });
    group.finish();
}

/// Lookups in bursts of 64, prefetched, by the number of entries.
fn lookup(criterion: &mut Criterion) {
    const BURST: usize = 64;
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(BURST as u64));
    for count in [1_000_u32, 1_000_000] {
        let capacity = count as usize;
        let mut arena = Arena::reserve(Index::bytes(capacity), Pages::Ordinary).unwrap();
        let mut index = Index::new(&mut arena, capacity).unwrap();
        let key = HashKey::seeded(1);
        let hash = |number: u32| key.words(number.into(), 2, 3);
        for number in 0..count {
            let probe = index.probe(hash(number));
            index.insert(probe, number).unwrap();
        }
        let mut rng = Rng::new(1);
        group.bench_function(BenchmarkId::new("burst of 64", count), |bench| {
            bench.iter(|| {
                let numbers: [u32; BURST] = std::array::from_fn(|_| rng.below(count));
                let probes: [Probe; BURST] = numbers.map(|number| index.probe(hash(number)));
                for probe in probes {
                    index.prefetch(probe);
                }
                let wanted = numbers.into_iter().zip(probes);
                wanted
                    .filter_map(|(number, probe)| index.find(probe, |found| found == number))
                    .count()
            });
        });
    }
    group.finish();
}

/// Entries armed, and the visit when they are due.
fn wheel(criterion: &mut Criterion) {
    const ENTRIES: u32 = 100_000;
    let mut group = criterion.benchmark_group("wheel");
    group.throughput(Throughput::Elements(ENTRIES.into()));
    let mut arena = Arena::reserve(Wheel::bytes(ENTRIES as usize), Pages::Ordinary).unwrap();
    let mut wheel = Wheel::new(&mut arena, ENTRIES as usize).unwrap();
    let mut now = 0_u32;
    group.bench_function("arm and visit", |bench| {
        bench.iter(|| {
            for reference in 0..ENTRIES {
                wheel.arm(Tick(now + 1 + reference % 64), reference);
            }
            now += 65;
            let mut visited = 0;
            while let Some(due) = wheel.take_due(Tick(now), CHUNK_REFERENCES) {
                visited += due.references().len();
            }
            assert_eq!(visited, ENTRIES as usize);
        });
    });
    group.finish();
}

/// Whole packets: every kind at a thousand sessions, UDP at a million too.
fn packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet");
    group.throughput(Throughput::Elements(1));
    let small = Protocol::ALL.map(|protocol| (1_000, protocol, Choice::Uniform));
    let large = [Choice::Uniform, Choice::Zipf].map(|choice| (1_000_000, Protocol::Udp, choice));
    for (sessions, protocol, choice) in small.into_iter().chain(large) {
        for side in [Side::V6, Side::V4] {
            let mut traffic = Established::new(sessions, protocol, side, choice).unwrap();
            let name = format!("{} {} {choice:?}", protocol.name(), side.direction());
            group.bench_function(BenchmarkId::new(name, sessions), |bench| {
                bench.iter_custom(|count| traffic.run(count).unwrap());
            });
        }
    }
    group.finish();
}

/// Sessions that begin and end.
fn sessions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(1));
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let mut opening = Opening::new(1_000_000, protocol).unwrap();
        group.bench_function(BenchmarkId::new("begins", protocol.name()), |bench| {
            bench.iter_custom(|count| opening.run(count).unwrap());
        });
    }
    // Sessions have to be made before they end, which takes longer and does not count.
    group.measurement_time(Duration::from_millis(100));
    group.bench_function("ends", |bench| {
        bench.iter_custom(|count| expiry(count, 100_000).unwrap());
    });
    group.finish();
}

/// Short: what a difference of some percent takes to be seen.
fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = components;
    config = short();
    targets = headers, lookup, wheel, packets, sessions
}
criterion_main!(components);
