//! No allocation on the packet path: neither for established traffic, nor for new sessions, nor
//! when they expire.
#![allow(missing_docs)]

#[path = "support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use gate64_dataplane::config::Filtering;
use gate64_dataplane::counters;
use gate64_dataplane::nat64::{Batch, Hop, Item};
use gate64_dataplane::route::PortId;
use gate64_dataplane::verdict::{Side, Verdict};
use gate64_wire::addr::Protocol;
use support::packets::{judged, ping6, tcp4, tcp6, udp4, udp6};
use support::{Gateway, HOST, POOL, SERVER, config, embedded};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting what this thread asks of it.
struct Counting;

// SAFETY: all calls go on to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

/// Allocations of the engine alone while it works on these packets.
fn in_process(gateway: &mut Gateway, packets: &[(Side, Vec<u8>)]) -> u64 {
    let mut sum = 0;
    for burst in packets.chunks(64) {
        let mut batch = Batch::default();
        for (side, bytes) in burst {
            let mut frame = gateway.take_frame();
            assert!(gateway.area.write(&mut frame, bytes));
            batch.items.push(Item {
                frame,
                side: *side,
                port: PortId(*side as u8),
                handed_off: false,
                verdict: Verdict::Hold,
                hop: Hop::None,
            });
        }
        let Gateway {
            nat64,
            area,
            routes,
            now,
            ..
        } = gateway;
        sum += allocations(|| nat64.process(area, routes, &mut batch, *now));
        for item in batch.items {
            assert!(matches!(item.verdict, Verdict::Forward(_) | Verdict::Hold));
            gateway.return_frame(item.frame);
        }
    }
    sum
}

fn new_sessions(filtering: Filtering) {
    let mut config = config();
    config.filtering = filtering;
    let mut gateway = Gateway::with_sessions(config, 4000);
    let server = embedded(SERVER);
    // New mappings of two protocols, and further sessions of one mapping.
    let mut packets = Vec::new();
    for n in 0..700 {
        packets.push((Side::V6, udp6((HOST, 2000 + n), (server, 53), b"new")));
        packets.push((Side::V6, tcp6((HOST, 2000 + n), (server, 80), 2, b"")));
        packets.push((Side::V6, udp6((HOST, 1000), (server, 3000 + n), b"new")));
    }
    assert_eq!(in_process(&mut gateway, &packets), 0, "new sessions");
    assert_eq!(gateway.sessions(Protocol::Udp), 1400);
    assert_eq!(in_process(&mut gateway, &packets), 0, "established ones");
    let expiring = allocations(|| {
        gateway.advance(Duration::from_secs(302));
        gateway.advance(Duration::from_secs(302));
    });
    assert_eq!(expiring, 0, "expiry");
    assert_eq!(gateway.sessions(Protocol::Udp), 0);
    assert_eq!(gateway.sessions(Protocol::Tcp), 0);
}

#[test]
fn none_with_endpoint_independent_filtering() {
    new_sessions(Filtering::EndpointIndependent);
}

#[test]
fn none_with_address_dependent_filtering() {
    new_sessions(Filtering::AddressDependent);
}

/// Three fragments of an IPv6 packet with 1200 octets of payload.
fn fragments(whole: &[u8], id: u32) -> [Vec<u8>; 3] {
    [(0, 400), (400, 800), (800, whole.len() - 40)].map(|(from, to)| {
        let mut bytes = whole[..40].to_vec();
        bytes.extend_from_slice(&[whole[6], 0]);
        let more = u16::from(to < whole.len() - 40);
        let field = u16::try_from(from).expect("a short packet") | more;
        bytes.extend_from_slice(&field.to_be_bytes());
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&whole[40 + from..40 + to]);
        bytes[6] = 44;
        let len = u16::try_from(bytes.len() - 40).expect("a short packet");
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes
    })
}

#[test]
fn none_for_fragments_in_any_order() {
    let mut gateway = Gateway::new(config());
    let server = embedded(SERVER);
    let mut sum = 0;
    for id in 0..5000 {
        let datagram = udp6((HOST, 5000), (server, 53), &[7; 1192]);
        let echo = ping6(HOST, server, 77, &[7; 1192]);
        let [a, b, c] = fragments(&datagram, id);
        let [d, e, f] = fragments(&echo, id + 100_000);
        let mut order = [c, f, a, d, b, e].map(|part| (Side::V6, part));
        order.rotate_left(id as usize % 6);
        // Some packets never complete.
        let count = if id % 7 == 0 { 4 } else { 6 };
        sum += in_process(&mut gateway, &order[..count]);
        sum += allocations(|| while gateway.nat64.next_outgoing().is_some() {});
        if id % 100 == 0 {
            sum += allocations(|| gateway.advance(Duration::from_secs(2)));
        }
    }
    assert_eq!(sum, 0);
    assert!(gateway.count(counters::packets_forwarded(0)) > 20_000);
}

#[test]
fn none_for_held_syns_and_probes() {
    let mut gateway = Gateway::new(config());
    let mut sum = 0;
    for n in 0..5000u16 {
        let syn = tcp4((SERVER, n), (POOL, 2000 + n % 999), 2, b"");
        sum += in_process(&mut gateway, &[(Side::V4, syn)]);
        if n % 100 == 0 {
            sum += allocations(|| gateway.advance(Duration::from_secs(7)));
            sum += allocations(|| while gateway.nat64.next_outgoing().is_some() {});
        }
    }
    let server = (embedded(SERVER), 80);
    let port = judged(&gateway.v6(&tcp6((HOST, 4000), server, 2, b""))).2;
    gateway.v4(&tcp4((SERVER, 80), (POOL, port), 0x12, b""));
    sum += allocations(|| gateway.advance(Duration::from_secs(7441)));
    assert_eq!((sum, gateway.count(counters::tcp_probes(0))), (0, 1));
}

#[test]
fn none_for_answers() {
    let mut gateway = Gateway::new(config());
    let question = udp6((HOST, 5000), (embedded(SERVER), 53), b"question");
    let port = judged(&gateway.v6(&question)).2;
    let answers: Vec<_> = (0..200)
        .map(|_| (Side::V4, udp4((SERVER, 53), (POOL, port), b"answer")))
        .collect();
    assert_eq!(in_process(&mut gateway, &answers), 0);
    assert!(allocations(|| drop(vec![1])) > 0, "the count counts");
}
