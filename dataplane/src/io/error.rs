//! Why packet I/O cannot start, each with what to do about it.

use std::io;

/// Why the data plane does not start. Nothing is left attached.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No right to make AF_XDP sockets or to load the XDP program.
    #[error(
        "no permission to {action}: run as root, or with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_IPC_LOCK"
    )]
    MissingPrivilege {
        /// What was tried.
        action: &'static str,
    },
    /// The kernel lacks something.
    #[error(
        "the kernel cannot {action} ({source}): Linux 5.15 with CONFIG_XDP_SOCKETS and CONFIG_BPF_SYSCALL is needed"
    )]
    KernelFeature {
        /// What was tried.
        action: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// An interface is not there.
    #[error("interface {interface}: there is none of that name (see `ip link`)")]
    NoSuchInterface {
        /// Its name.
        interface: String,
    },
    /// An interface is down.
    #[error("interface {interface}: it is down (`ip link set {interface} up`)")]
    InterfaceDown {
        /// Its name.
        interface: String,
    },
    /// An interface has another link layer than Ethernet.
    #[error("interface {interface}: it is not an Ethernet interface")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// Another XDP program is there.
    #[error(
        "interface {interface}: another XDP program is attached; see `ip link show {interface}`, and detach it with `ip link set {interface} xdp off` or stop its owner"
    )]
    ProgramAttached {
        /// Its name.
        interface: String,
    },
    /// The XDP program could not be attached.
    #[error("interface {interface}: cannot attach the XDP program in {mode} mode: {reason}")]
    AttachFailed {
        /// Its name.
        interface: String,
        /// native or generic.
        mode: &'static str,
        /// What the kernel answered, and what that means.
        reason: String,
    },
    /// The XDP program could not be loaded.
    #[error("the kernel refuses the XDP program: {reason}")]
    LoadFailed {
        /// What the kernel answered.
        reason: String,
    },
    /// A map of the XDP program could not be written.
    #[error("cannot set up steering: {reason}")]
    Steering {
        /// What went wrong.
        reason: String,
    },
    /// Busy polling was asked for and the kernel does not do it.
    #[error(
        "interface {interface}: busy_poll = \"on\", but the kernel refuses it ({source}): leave it to \"auto\", or use Linux 5.11 or newer"
    )]
    NoBusyPoll {
        /// Its name.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A queue is taken by another socket.
    #[error("interface {interface}: queue {queue} is used by another AF_XDP program")]
    Busy {
        /// Its name.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// Zero-copy was demanded where there is none.
    #[error(
        "interface {interface}: no zero-copy here (zero_copy = \"on\"); use \"auto\", and the same choice for all interfaces, which share one memory"
    )]
    NoZeroCopy {
        /// Its name.
        interface: String,
    },
    /// A socket could not be opened.
    #[error("interface {interface}: cannot open an AF_XDP socket on queue {queue}: {source}")]
    Socket {
        /// Its name.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The frame memory could not be locked.
    #[error(
        "cannot lock {octets} octets of frame memory: raise LimitMEMLOCK (`ulimit -l`), or grant CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// Its size.
        octets: u64,
    },
    /// The frame memory could not be reserved.
    #[error("cannot reserve {octets} octets of frame memory: {source}")]
    FrameMemory {
        /// Its size.
        octets: u64,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Hugepages were demanded and are not there.
    #[error(
        "no hugepages for {octets} octets of frame memory (hugepages = \"on\"): reserve them with `sysctl vm.nr_hugepages={pages}`, or use \"auto\""
    )]
    NoHugepages {
        /// The memory's size.
        octets: u64,
        /// 2 MiB pages that would do.
        pages: u64,
    },
    /// More workers than an interface has queues.
    #[error(
        "interface {interface}: {queues} receive queues are too few for {workers} workers; raise them with `ethtool -L {interface} combined {workers}` (veth: `rx {workers} tx {workers}`) or lower dataplane.workers"
    )]
    TooFewQueues {
        /// Its name.
        interface: String,
        /// Receive queues it has.
        queues: u32,
        /// Workers wanted.
        workers: usize,
    },
    /// A CPU number that is not there.
    #[error("dataplane.workers: there is no CPU {cpu} for this process (there are {available})")]
    NoSuchCpu {
        /// The number.
        cpu: usize,
        /// The numbers there are, as text.
        available: String,
    },
    /// The sessions' memory could not be reserved.
    #[error("{0}; lower dataplane.session_count_max, or see dataplane.hugepages")]
    SessionMemory(#[source] crate::memory::ArenaError),
    /// A thread, an event descriptor or the like.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// The error of a system call that answers a negative number.
pub(super) fn sysret(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
