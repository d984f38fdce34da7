//! Ports that are set apart from what is given out: excluded ones, and those of static entries.

use super::*;

/// Ports that a reload excludes are given out no more, those of held blocks included; what is
/// mapped stays until it ends.
#[test]
fn excluded_ports_of_a_held_block_are_set_apart_when_they_are_free() {
    const EXCLUDED: u16 = 32;
    let one_block = |excluded: Option<u16>| {
        let mut config = config(|pool| {
            let range = |first: u16| first..=first + (EXCLUDED - 1);
            pool.exclude_ports = excluded.map(range).into_iter().collect();
        });
        config.subscriber.port_blocks_max = 1;
        config
    };
    let mut bench = Bench::empty(one_block(None), 1000, false);
    let open_all = |bench: &mut Bench, from: u16| -> BTreeMap<u16, u16> {
        let ports = from..from + 100;
        let opened = ports.map_while(|port| {
            let packet = udp6((host(0), port), (embedded(SERVER), 9), b"x");
            match bench.gateway.put(Side::V6, &packet) {
                Outcome::Sent(Side::V4, bytes) => Some((judged(&bytes).2, port)),
                _ => None,
            }
        });
        opened.collect()
    };
    // Some of its ports are mapped, on both sides of where the excluded ones will end.
    let mut mapped = BTreeMap::new();
    for port in 2000..2010 {
        let packet = udp6((host(0), port), (embedded(SERVER), 9), b"x");
        mapped.insert(judged(&bench.gateway.v6(&packet)).2, port);
    }
    let first = (mapped.keys().next().unwrap() - 1024) / 64 * 64 + 1024;
    let is_excluded = |port: &u16| (first..first + EXCLUDED).contains(port);
    let kept = mapped.iter().find(|(port, _)| !is_excluded(port));
    let (_, &kept) = kept.expect("one that is not excluded");
    let excluded_mapped = mapped.keys().copied().filter(is_excluded).count();
    assert!(excluded_mapped > 0);

    bench.change(one_block(Some(first)));
    let more = open_all(&mut bench, 3000);
    assert!(!more.keys().any(is_excluded));
    assert_eq!(mapped.len() + more.len(), 32 + excluded_mapped);
    let &old = mapped.keys().find(|port| is_excluded(port)).unwrap();
    let ip = bench
        .gateway
        .v6(&udp6((host(0), kept), (embedded(SERVER), 9), b"x"));
    let IpAddr::V4(ip) = judged(&ip).0 else {
        panic!("not translated");
    };
    bench
        .gateway
        .v4(&udp4((SERVER, 9), (ip, old), b"still mapped"));
    // There and back again while they are mapped.
    bench.change(one_block(None));
    bench.change(one_block(Some(first)));
    // All but one end, and have rested; the block stays with its holder.
    let keep = |bench: &mut Bench| {
        for _ in 0..4 {
            bench.gateway.advance(Duration::from_secs(200));
            let packet = udp6((host(0), kept), (embedded(SERVER), 9), b"x");
            bench.gateway.v6(&packet);
            bench.gateway.nat64.check_invariants();
        }
    };
    keep(&mut bench);
    let again = open_all(&mut bench, 4000);
    assert!(!again.keys().any(is_excluded));
    assert_eq!(again.len(), 31);
    // No longer excluded: the holder can use them at once.
    bench.change(one_block(None));
    assert_eq!(open_all(&mut bench, 5000).len(), 32);
    bench.gateway.nat64.check_invariants();
}

/// A static entry may lie outside the ports that are given out. When these grow over it, its port
/// stays its own.
#[test]
fn ports_that_come_leave_static_entries_alone() {
    let with = |ports| {
        let mut config = config(|pool| {
            pool.address = GOES;
            pool.length = 32;
            pool.ports = ports;
        });
        config.static_bib = (1024..1024 + 63)
            .map(|port| StaticBib {
                protocol: Protocol::Udp,
                v6: TransportAddr6 { ip: host(99), port },
                v4: TransportAddr4 { ip: GOES, port },
            })
            .collect();
        config
    };
    let mut bench = Bench::empty(with(1088..=1151), 1000, false);
    bench.change(with(1024..=1151));
    for number in 0..2 {
        let (_, port) = bench.open(number, SERVER).unwrap();
        assert!(port >= 1024 + 63, "{port} is a static entry's");
    }
    for port in 1024..1024 + 63 {
        let packet = udp4((SERVER, 9), (GOES, port), b"x");
        let (_, client, _, to, _) = judged(&bench.gateway.v4(&packet));
        assert_eq!((client, to), (IpAddr::V6(host(99)), port));
    }
}
