//! Jobs of control that a worker works off in steps: one too many is refused, and said so.
#![allow(missing_docs)]

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use crossbeam::channel;
use gate64_dataplane::command::{Command, Filter, JOBS_MAX, TooManyJobs, TopBy};
use support::packets::udp6;
use support::{Gateway, HOST, SERVER, config, embedded};

fn gateway() -> Gateway {
    let mut gateway = Gateway::new(config());
    gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"x"));
    gateway
}

fn command(gateway: &mut Gateway, command: Command) {
    let now = gateway.now;
    gateway.nat64.command(command, now);
}

#[test]
fn one_clearing_too_many_is_refused_and_fits_when_others_are_done() {
    let mut gateway = gateway();
    let clear = |gateway: &mut Gateway| {
        let (reply, answer) = channel::bounded(1);
        let filter = Filter::default();
        command(gateway, Command::ClearSessions { filter, reply });
        answer
    };
    let waiting: Vec<_> = (0..JOBS_MAX).map(|_| clear(&mut gateway)).collect();
    assert_eq!(clear(&mut gateway).try_recv(), Ok(Err(TooManyJobs)));
    gateway.advance(Duration::from_millis(250));
    let counts: Vec<_> = waiting.iter().map(|answer| answer.try_recv()).collect();
    assert_eq!(counts[0], Ok(Ok(1)));
    assert!(counts[1..].iter().all(|count| *count == Ok(Ok(0))));
    let late = clear(&mut gateway);
    gateway.advance(Duration::from_millis(250));
    assert_eq!(late.try_recv(), Ok(Ok(0)));
}

#[test]
fn one_search_too_many_is_refused() {
    let mut gateway = gateway();
    let top = |gateway: &mut Gateway| {
        let (reply, answer) = channel::bounded(1);
        let (by, limit) = (TopBy::Ports, 5);
        command(gateway, Command::TopSubscribers { by, limit, reply });
        answer
    };
    let waiting: Vec<_> = (0..JOBS_MAX).map(|_| top(&mut gateway)).collect();
    assert_eq!(top(&mut gateway).try_recv(), Ok(Err(TooManyJobs)));
    gateway.advance(Duration::from_millis(250));
    for answer in waiting {
        assert_eq!(answer.try_recv().unwrap().unwrap().len(), 1);
    }
}

#[test]
fn one_cut_too_many_is_refused() {
    let mut gateway = gateway();
    let cut = |gateway: &mut Gateway| {
        let (begun, has_begun) = channel::bounded(1);
        let (reply, answer) = channel::bounded(1);
        let addresses = vec![support::POOL];
        let cut = Command::CutBlocks {
            addresses,
            begun,
            reply,
        };
        command(gateway, cut);
        (has_begun.try_recv().expect("an answer at once"), answer)
    };
    let waiting: Vec<_> = (0..JOBS_MAX).map(|_| cut(&mut gateway)).collect();
    let (refused, never) = cut(&mut gateway);
    assert_eq!(refused, Err(TooManyJobs));
    gateway.advance(Duration::from_millis(250));
    for (begun, answer) in waiting {
        assert_eq!((begun, answer.try_recv()), (Ok(()), Ok(0)), "all are open");
    }
    assert!(never.try_recv().is_err());
}
