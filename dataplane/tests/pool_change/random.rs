//! Reloads, cuts and traffic in any order.

use super::*;

/// A reload as it may come: addresses excluded or drained, ports fewer or more, some excluded.
fn any_config(rng: &mut Rng) -> Nat64Config {
    let mut config = config(|pool| {
        for ip in [STAYS, GOES] {
            match rng.below(6) {
                0 => pool.exclude.push(ip),
                1 => pool.drain.push(ip),
                _ => {}
            }
        }
        let blocks = [2, 4, 16][usize::try_from(rng.below(3)).unwrap()];
        pool.ports = 1024..=1023 + blocks * 64;
        if rng.below(2) == 0 {
            let first = 1024 + u16::try_from(rng.below(200)).unwrap();
            pool.exclude_ports = vec![first..=first + u16::try_from(rng.below(100)).unwrap()];
        }
    });
    config.subscriber.port_blocks_max = 2;
    config.subscriber.block_idle = Duration::from_secs(60);
    config
}

/// First port of the block that a port lies in.
fn block_of((ip, port): (Ipv4Addr, u16)) -> (Ipv4Addr, u16) {
    (ip, port / 64 * 64)
}

/// Whether a new mapping may have this transport address: of a block that was `held`, or new.
fn may_be_new(
    config: &Nat64Config,
    held: &BTreeSet<(Ipv4Addr, u16)>,
    (ip, port): (Ipv4Addr, u16),
) -> bool {
    let pool = &config.pool4[0];
    let is_closed = pool.exclude.contains(&ip);
    let is_excluded = pool.exclude_ports.iter().any(|ports| ports.contains(&port));
    let is_open = pool.ports.contains(&port) && !is_closed && !pool.drain.contains(&ip);
    (is_open || held.contains(&block_of((ip, port)))) && (is_closed || !is_excluded)
}

/// Traffic, reloads, cuts and time in any order; the tables agree with each other after each, the
/// events with the tables, and what is new lies where the configuration of now allows it.
/// `GATE64_SEED` repeats a run; its seed is printed.
#[test]
fn reloads_and_cuts_in_any_order_leave_nothing_behind() {
    let seed = std::env::var("GATE64_SEED").map_or_else(
        |_| HashKey::random().words(1, 2, 3),
        |seed| seed.parse().expect("GATE64_SEED is a number"),
    );
    println!("GATE64_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut current = any_config(&mut rng);
    let mut bench = Bench::empty(current.clone(), 400, true);
    let mut mapped = BTreeMap::new();
    let mut held = BTreeSet::new();
    for _ in 0..4000 {
        match rng.below(40) {
            0..=31 => {
                let key = (rng.below(12), rng.below(70));
                let [number, port] = [key.0, key.1].map(|one| u16::try_from(one).unwrap());
                let server = [SERVER, OTHER_SERVER][usize::try_from(rng.below(2)).unwrap()];
                let packet = udp6((host(number), 4000 + port), (embedded(server), 9), b"x");
                if let Outcome::Sent(Side::V4, bytes) = bench.gateway.put(Side::V6, &packet) {
                    let (IpAddr::V4(ip), _, port, ..) = judged(&bytes) else {
                        panic!("not translated");
                    };
                    let before = mapped.insert(key, (ip, port));
                    let is_known = before == Some((ip, port));
                    assert!(is_known || may_be_new(&current, &held, (ip, port)));
                }
            }
            32 | 33 => {
                let seconds = [1, 61, 130, 301][usize::try_from(rng.below(4)).unwrap()];
                bench.gateway.advance(Duration::from_secs(seconds));
            }
            34 | 35 => {
                current = any_config(&mut rng);
                bench.change_as_control_does(&current);
            }
            36 => {
                let which = [&[STAYS, GOES][..], &[STAYS], &[GOES]];
                let which = which[usize::try_from(rng.below(3)).unwrap()];
                drop(bench.try_cut(which));
            }
            37 => {
                let number = u16::try_from(rng.below(12)).unwrap();
                let filter = Filter {
                    v6: Some((host(number), 64)),
                    ..Filter::default()
                };
                drop(bench.clear(filter));
            }
            _ => bench.step(),
        }
        while let Some(event) = bench.gateway.nat64.take_event() {
            match event {
                Event::BlockAllocated(one) => assert!(held.insert((one.v4, one.port_first))),
                Event::BlockReleased(one) => assert!(held.remove(&(one.v4, one.port_first))),
                _ => {}
            }
        }
        bench.gateway.nat64.check_invariants();
        let counted = bench.gateway.count(counters::port_blocks_used(0));
        assert_eq!(held.len() as u64, counted);
    }
    for _ in 0..4 {
        bench.gateway.advance(Duration::from_secs(301));
        bench.gateway.nat64.check_invariants();
    }
    for id in [
        counters::subscribers(0),
        counters::port_blocks_used(0),
        counters::pool_blocks_resting(0),
        counters::events_lost(0),
    ] {
        assert_eq!(bench.gateway.count(id), 0, "{id:?}");
    }
    assert_eq!(bench.gateway.outgoing(), []);
}
