use std::sync::Barrier;
use std::thread;

use super::*;

const KEY: &str = "net/ipv6/conf/lo/accept_ra";
const ROUND_COUNT: usize = 300;

/// One share's downstream is another share's neighbour: the one wants no advertisements there, the
/// other wants those that the host takes to be taken on. They start and end at the same moment.
#[test]
fn what_two_shares_change_at_once_is_put_back() {
    // A namespace of the test's own: the kernel parameters are those of the thread's.
    thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        let directory = std::env::temp_dir().join(format!("gate64-journal-{}", std::process::id()));
        let before = host::sysctl(KEY).unwrap();
        assert_eq!(before, "1");
        for round in 0..ROUND_COUNT {
            two_at_once(&directory);
            assert_eq!(host::sysctl(KEY).unwrap(), before, "round {round}");
        }
        fs::remove_dir_all(&directory).unwrap();
    })
    .join()
    .unwrap();
}

fn two_at_once(directory: &Path) {
    let begin = |up: &str, down: &str| Journal::begin(directory, up, down).unwrap().0;
    let (one, other) = (begin("wan", "lan"), begin("wan2", "lan2"));
    let meet = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            meet.wait();
            one.set(KEY, "0").unwrap();
        });
        scope.spawn(|| {
            meet.wait();
            other.set_where(KEY, |now| now == "1", "2").unwrap();
        });
    });
    assert_eq!(
        host::sysctl(KEY).unwrap(),
        "0",
        "no router's downstream listens"
    );
    thread::scope(|scope| {
        scope.spawn(|| one.end().unwrap());
        scope.spawn(|| other.end().unwrap());
    });
}
