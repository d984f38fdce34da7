//! No allocation on the packet path: neither for established traffic, nor for new sessions, nor
//! when they expire.
#![allow(missing_docs)]

#[path = "support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use gate64_dataplane::config::Filtering;
use gate64_dataplane::nat64::{Batch, Hop, Item};
use gate64_dataplane::route::PortId;
use gate64_dataplane::verdict::{Side, Verdict};
use gate64_wire::addr::Protocol;
use support::packets::{judged, tcp6, udp4, udp6};
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
            assert!(matches!(item.verdict, Verdict::Forward(_)));
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
