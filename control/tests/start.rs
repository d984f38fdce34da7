//! A gateway that cannot start, in a network namespace: the exit code of the contract, one line
//! that says what to do, and nothing left behind.
#![allow(missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

static COUNT: AtomicU32 = AtomicU32::new(0);

const METRICS: &str = "[::1]:9464";
const DNS: &str = "[::1]:5353";
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bound only to see that nothing else is: all of gate64's ports.
const PORTS: [&str; 2] = [METRICS, DNS];

/// A namespace with two interfaces, `f0` and `f1`, and a configuration over both.
struct Host {
    namespace: String,
    folder: PathBuf,
}

impl Host {
    fn up() -> Host {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes a network namespace and needs root"
        );
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("g64s{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&namespace);
        fs::create_dir_all(&folder).unwrap();
        let host = Host { namespace, folder };
        run("ip", &["netns", "add", &host.namespace]);
        host.ip("link set lo up");
        for (near, far) in [("f0", "p0"), ("f1", "p1")] {
            host.ip(&format!("link add {near} type veth peer name {far}"));
            host.ip(&format!("link set {near} up"));
            host.ip(&format!("link set {far} up"));
        }
        host.ip("addr add 2001:db8:1::1/64 dev f0 nodad");
        host.ip("addr add 192.0.2.254/24 dev f1");
        host
    }

    fn ip(&self, args: &str) -> String {
        let args: Vec<&str> = ["-n", &self.namespace]
            .into_iter()
            .chain(args.split(' '))
            .collect();
        run("ip", &args)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn config(&self, name: &str) -> String {
        let path = self.path(&format!("{name}.toml"));
        let text = format!(
            "[[interface]]\nname = \"f0\"\n[[interface]]\nname = \"f1\"\n\
             [nat64]\npref64 = [\"64:ff9b::/96\"]\n[[pool4]]\nprefix = \"198.51.100.0/28\"\n\
             [dataplane]\nsession_count_max = 10000\n\
             [dns64]\nlisten = [\"{DNS}\"]\nupstream = [\"udp://192.0.2.1:53\"]\n\
             [metrics]\nlisten = \"{METRICS}\"\n[api]\nsocket = \"{}\"\n",
            self.path(&format!("{name}.sock"))
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// `gate64 run`, through the programs that take something from it first.
    fn gate64(&self, before: &[&str], config: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]);
        command.args(before);
        command.args([env!("CARGO_BIN_EXE_gate64"), "run", "--config", config]);
        command
    }

    /// It ends with this code, says these things in one line, and has left nothing.
    #[track_caller]
    fn fails(&self, command: &mut Command, code: i32, says: &[&str]) {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(text.lines().count(), 1, "one line: {text}");
        for part in says {
            assert!(text.contains(part), "does not say {part:?}: {text}");
        }
        self.has_nothing_left("run");
    }

    /// No API socket, no port, and no neighbour that the kernel keeps for gate64.
    #[track_caller]
    fn has_nothing_left(&self, name: &str) {
        let socket = self.folder.join(format!("{name}.sock"));
        assert!(!socket.exists(), "{} is left", socket.display());
        self.ports_are_free();
        assert!(!self.ip("neigh show").contains("managed"));
    }

    /// Nobody has one of gate64's ports. A program that another test starts holds all sockets of
    /// this process until it executes.
    #[track_caller]
    fn ports_are_free(&self) {
        let end = Instant::now() + PATIENCE;
        let is_free = || {
            let tcp = PORTS.iter().all(|port| TcpListener::bind(port).is_ok());
            tcp && UdpSocket::bind(DNS).is_ok()
        };
        while !self.inside(is_free) {
            assert!(Instant::now() < end, "a port is still in use");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The number of the XDP program on an interface.
    fn program(&self, interface: &str) -> Option<String> {
        let shown = self.ip(&format!("-d link show {interface}"));
        let (_, behind) = shown.split_once("prog/xdp id ")?;
        behind.split_whitespace().next().map(str::to_owned)
    }

    /// Somebody else's XDP program, in this mode of `ip`.
    fn attach_other(&self, interface: &str, mode: &str) -> String {
        let (source, object) = (self.path("pass.c"), self.path("pass.o"));
        let pass = "__attribute__((section(\"xdp\"), used)) int pass(void *c) { return 2; }\n";
        fs::write(&source, pass).unwrap();
        let args = ["-O2", "-target", "bpf", "-c", &source, "-o", &object];
        run("clang", &args);
        self.ip(&format!("link set {interface} {mode} obj {object} sec xdp"));
        self.program(interface).expect("it is attached")
    }

    /// Does something on a thread inside the namespace.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let path = format!("/run/netns/{}", self.namespace);
                let file = fs::File::open(path).unwrap();
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .status();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output: Output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program} (see `make deps`): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A gate64 that runs, stopped when dropped.
struct Running {
    child: Child,
}

impl Running {
    /// Waits until it says that it is ready.
    fn start(mut command: Command) -> Running {
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Running { child };
        let mut lines = BufReader::new(running.child.stderr.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("ready")));
        assert!(ready, "it ended before it was ready");
        // Nobody reads on: what it says from now on must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        running
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn stop(mut self) -> Option<i32> {
        // `ip netns exec` has become gate64.
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_missing_privilege_is_4_and_names_what_is_needed() {
    let host = Host::up();
    let config = host.config("run");
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    // What this host keeps from others is the folder of the API's socket.
    let mut command = host.gate64(&nobody, &config);
    host.fails(&mut command, 4, &["Permission denied", "run as root"]);
    for (lost, says) in [
        ("-all", "load the XDP program"),
        ("-bpf,-sys_admin", "load the XDP program"),
        ("-net_raw", "open an AF_XDP socket"),
        ("-net_admin", "CAP_NET_ADMIN is missing"),
    ] {
        let bounding_set = format!("--bounding-set={lost}");
        let less = ["setpriv", &bounding_set, "--inh-caps=-all"];
        let mut command = host.gate64(&less, &config);
        host.fails(&mut command, 4, &[says, "as root", "CAP_"]);
        assert_eq!((host.program("f0"), host.program("f1")), (None, None));
    }
}

#[test]
fn too_little_locked_memory_is_4_and_says_how_to_get_more() {
    let host = Host::up();
    let config = host.config("run");
    let less = [
        "setpriv",
        "--bounding-set=-ipc_lock",
        "--inh-caps=-all",
        "sh",
        "-c",
        "ulimit -l 64; exec \"$@\"",
        "sh",
    ];
    let says = ["lock", "LimitMEMLOCK", "ulimit -l", "CAP_IPC_LOCK"];
    host.fails(&mut host.gate64(&less, &config), 4, &says);
    assert_eq!((host.program("f0"), host.program("f1")), (None, None));
}

/// Makes a system call fail with an error, as a kernel without the feature does: for `socket`
/// only where its first argument is this.
fn without_feature(command: &mut Command, call: libc::c_long, first: Option<u32>, errno: i32) {
    let call = u32::try_from(call).unwrap();
    let errno = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
    let (load, equal, end) = (0x20, 0x15, 0x06); // BPF_LD_W_ABS, BPF_JEQ_K, BPF_RET_K
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // struct seccomp_data: the number at 0, the first argument's lower half at 16.
    let filter = [
        step(load, 0, 0, 0),
        step(equal, 0, 3, call),
        step(load, 0, 0, 16),
        step(equal, 0, u8::from(first.is_some()), first.unwrap_or(0)),
        step(end, 0, 0, errno),
        step(end, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog {
            len: 6,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: integers only.
        let alone = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the program and its six steps live through the call.
        let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        if alone != 0 || done != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes two system calls and touches nothing else.
    unsafe { command.pre_exec(install) };
}

#[test]
fn a_missing_kernel_feature_is_4_and_names_it() {
    let host = Host::up();
    let config = host.config("run");
    let mut no_bpf = host.gate64(&[], &config);
    without_feature(&mut no_bpf, libc::SYS_bpf, None, libc::ENOSYS);
    host.fails(&mut no_bpf, 4, &["BPF", "Linux 5.15", "CONFIG_BPF_SYSCALL"]);
    let mut no_xdp = host.gate64(&[], &config);
    let family = u32::try_from(libc::AF_XDP).unwrap();
    without_feature(
        &mut no_xdp,
        libc::SYS_socket,
        Some(family),
        libc::EAFNOSUPPORT,
    );
    host.fails(&mut no_xdp, 4, &["AF_XDP", "CONFIG_XDP_SOCKETS"]);
    assert_eq!((host.program("f0"), host.program("f1")), (None, None));
}

#[test]
fn an_interface_that_is_missing_down_or_none_is_5() {
    let host = Host::up();
    let config = host.config("run");
    host.ip("link set f1 down");
    let mut command = host.gate64(&[], &config);
    host.fails(&mut command, 5, &["f1", "down", "ip link set f1 up"]);
    assert_eq!(host.program("f0"), None);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"f1\"", "\"lo\"")).unwrap();
    let mut command = host.gate64(&[], &config);
    host.fails(&mut command, 5, &["lo", "not an Ethernet interface"]);
    assert_eq!(host.program("f0"), None);
    host.ip("link del f1");
    fs::write(&config, text).unwrap();
    let output = host.gate64(&[], &config).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(
        text.contains("no interface \"f1\"") && text.contains("run.toml"),
        "{text}"
    );
    host.has_nothing_left("run");
    assert_eq!(host.program("f0"), None);
}

#[test]
fn another_xdp_program_is_5_and_stays() {
    let host = Host::up();
    let config = host.config("run");
    for (on, off) in [("xdp", "xdp off"), ("xdpgeneric", "xdpgeneric off")] {
        let other = host.attach_other("f1", on);
        let mut command = host.gate64(&[], &config);
        host.fails(&mut command, 5, &["f1", "another XDP program", "xdp off"]);
        assert_eq!(
            (host.program("f0"), host.program("f1")),
            (None, Some(other))
        );
        host.ip(&format!("link set f1 {off}"));
    }
}

#[test]
fn a_second_gate64_is_5_and_the_first_goes_on() {
    let host = Host::up();
    let mut first = Running::start(host.gate64(&[], &host.config("first")));
    let programs = (host.program("f0"), host.program("f1"));
    assert!(programs.0.is_some() && programs.1.is_some());
    let second = host.config("second");
    let text = fs::read_to_string(&second).unwrap();
    let text = text.replace(METRICS, "[::1]:9465").replace(DNS, "[::1]:54");
    fs::write(&second, text).unwrap();
    let output = host.gate64(&[], &second).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("another XDP program is attached"), "{text}");
    assert!(first.runs());
    assert_eq!((host.program("f0"), host.program("f1")), programs);
    assert_eq!(first.stop(), Some(0));
    assert_eq!((host.program("f0"), host.program("f1")), (None, None));
    host.has_nothing_left("first");
    host.has_nothing_left("second");
}

/// Were an interface touched before it is seen that a port is in use, the other program on it
/// would be what is complained of.
#[test]
fn a_port_in_use_is_1_and_seen_before_an_interface_is_touched() {
    let host = Host::up();
    let config = host.config("run");
    let other = host.attach_other("f0", "xdp");
    let (metrics, dns): (SocketAddr, SocketAddr) = (METRICS.parse().unwrap(), DNS.parse().unwrap());
    let fails = |says: &[&str]| {
        let output = host.gate64(&[], &config).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in says {
            assert!(text.contains(part), "does not say {part:?}: {text}");
        }
        assert_eq!(host.program("f0").as_ref(), Some(&other));
        assert_eq!(host.program("f1"), None);
    };
    let taken = host.inside(|| TcpListener::bind(metrics).unwrap());
    fails(&["metrics", METRICS, "in use", "ss -lntp"]);
    drop(taken);
    host.ports_are_free();
    let taken = host.inside(|| UdpSocket::bind(dns).unwrap());
    fails(&["DNS", DNS, "udp", "in use", "ss -lnp"]);
    drop(taken);
    host.ports_are_free();
    let taken = host.inside(|| TcpListener::bind(dns).unwrap());
    fails(&["DNS", DNS, "tcp", "in use"]);
    drop(taken);
    host.has_nothing_left("run");
    let taken = UnixListener::bind(host.path("run.sock")).unwrap();
    fails(&["already answers", "run.sock"]);
    assert!(host.folder.join("run.sock").exists(), "not ours to remove");
    drop(taken);
}

/// What does not fit this machine is seen by `check`, and by `run` before it touches anything.
#[test]
fn what_does_not_fit_the_machine_is_named_by_check_and_run() {
    const TABLE: &str = "session_count_max = 10000\n";
    let host = Host::up();
    let config = host.config("run");
    let text = fs::read_to_string(&config).unwrap();
    for (dataplane, code, says) in [
        (
            format!("{TABLE}workers = [4095]\n"),
            3,
            "this machine has no CPU 4095",
        ),
        (
            // One receive queue each.
            format!("{TABLE}workers = [0, 1]\n"),
            5,
            "1 receive queues, too few for 2 workers",
        ),
        (
            "session_count_max = 1_000_000_000\n".to_owned(),
            3,
            "MiB of session memory",
        ),
        (
            // Such a table takes more than this machine may have left in hugepages.
            "session_count_max = 5_000_000\nhugepages = \"on\"\n".to_owned(),
            3,
            "dataplane.hugepages",
        ),
    ] {
        fs::write(&config, text.replace(TABLE, &dataplane)).unwrap();
        let run = host.gate64(&[], &config).output().unwrap();
        let errors = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{errors}");
        assert!(errors.contains(says), "{says}: {errors}");
        let mut check = Command::new("ip");
        check.args(["netns", "exec", &host.namespace]);
        check.args([env!("CARGO_BIN_EXE_gate64"), "check", "--config", &config]);
        let check = check.output().unwrap();
        let errors = String::from_utf8_lossy(&check.stderr);
        assert_eq!(check.status.code(), Some(1), "{errors}");
        assert!(errors.contains(says), "{says}: {errors}");
        assert!(check.stdout.is_empty());
        assert_eq!((host.program("f0"), host.program("f1")), (None, None));
    }
    host.has_nothing_left("run");
}

/// Which addresses an interface has only the machine knows.
#[test]
fn pools_that_meet_the_addresses_of_the_host_are_named_by_check() {
    let host = Host::up();
    let config = host.config("run");
    let text = fs::read_to_string(&config).unwrap();
    let with = |pool: &str| {
        let text = text.replace("prefix = \"198.51.100.0/28\"\n", pool);
        fs::write(&config, text).unwrap();
        let mut check = Command::new("ip");
        check.args(["netns", "exec", &host.namespace]);
        check.args([env!("CARGO_BIN_EXE_gate64"), "check", "--config", &config]);
        let output = check.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), errors)
    };
    const OWN: &str = "192.0.2.254 is an address of this host";
    const TWICE: &str =
        "192.0.2.254, the address of an interface that is a pool, is in 192.0.2.0/24 too";
    let shared = "interface = \"f1\"\nports = \"1024-32000\"\n";
    let prefix = "prefix = \"192.0.2.0/24\"\n";
    let excluded = format!("{prefix}exclude = [\"192.0.2.254\"]\n");
    let entry = |v4: &str| {
        format!("[[static]]\nprotocol = \"tcp\"\nv6 = \"[2001:db8:1::9]:80\"\nv4 = \"{v4}:8080\"\n")
    };
    let (code, errors) = with(prefix);
    assert!(code == Some(0) && errors.contains(OWN), "{errors}");
    let (code, errors) = with(&format!("{prefix}[[pool4]]\n{shared}"));
    assert!(code == Some(1) && errors.contains(TWICE), "{errors}");
    for good in [
        excluded.clone(),
        format!("{excluded}[[pool4]]\n{shared}"),
        format!("{shared}{}", entry("192.0.2.254")),
    ] {
        let (code, errors) = with(&good);
        assert!(
            code == Some(0) && !errors.contains("192.0.2.254"),
            "{errors}"
        );
    }
    let (code, errors) = with(&format!("{shared}{}", entry("203.0.113.77")));
    let says = errors.contains("static.v4") && errors.contains("203.0.113.77 is in no [[pool4]]");
    assert!(code == Some(1) && says, "{errors}");
}

#[test]
fn a_wrong_configuration_is_3_and_touches_nothing() {
    let host = Host::up();
    let config = host.config("run");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("/96", "/95")).unwrap();
    let output = host.gate64(&[], &config).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("nat64.pref64") && text.contains("/95"),
        "{text}"
    );
    assert_eq!((host.program("f0"), host.program("f1")), (None, None));
    host.has_nothing_left("run");
}
