//! The XDP program on each interface and its maps: which packets come to gate64.
//!
//! The program is attached as a BPF link, which the kernel removes when the process ends in
//! whatever way. What it decides is written in `xdp/steer.bpf.c`.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp};
use aya::sys::SyscallError;
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use gate64_wire::addr::Protocol;

use super::error::StartError;
use super::interface::{Interface, XdpMode};
use crate::config::{InterfaceConfig, Nat64Config, Pool4Prefix, XdpModeChoice};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// MTU up to which a frame fits one buffer of every driver that was tried; beyond, the program
/// for several buffers is attached. (veth in Linux 6.18 takes 3506.)
const SINGLE_BUFFER_MTU: u32 = 1800;

/// What the steering program of one interface counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SteeringStatistics {
    /// IPv6 packets sent to gate64.
    pub to_gate64_v6: u64,
    /// IPv4 packets sent to gate64.
    pub to_gate64_v4: u64,
    /// Packets for gate64 on a queue without a socket: dropped.
    pub no_socket: u64,
    /// Packets to a shared address that were left to the kernel.
    pub shared_passed: u64,
    /// All other packets, left to the kernel.
    pub passed: u64,
}

/// Steering on all interfaces. Dropping it detaches the programs.
#[derive(Debug)]
pub struct Steering {
    interfaces: Vec<Attached>,
    tables: Tables,
}

/// The program on one interface.
#[derive(Debug)]
pub(super) struct Attached {
    bpf: Ebpf,
    mode: XdpMode,
    notes: Vec<String>,
    #[expect(
        dead_code,
        reason = "kept alive: it detaches the program when it is dropped"
    )]
    link: FdLink,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Settings {
    vlan: u16,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pool4Value {
    kind: u16,
    port_first: u16,
    port_last: u16,
    pad: u16,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct StaticKey {
    address: [u8; 4],
    port: [u8; 2],
    protocol: u16,
}

// SAFETY: integers without padding, valid for any bit pattern; the layout is that of
// `struct settings` in steer.bpf.c.
unsafe impl Pod for Settings {}
// SAFETY: as above, `struct pool4`.
unsafe impl Pod for Pool4Value {}
// SAFETY: as above, `struct static_key`.
unsafe impl Pod for StaticKey {}

/// What the maps hold: prefix length and address, or key, each with its value.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Tables {
    pref64: BTreeMap<(u32, [u8; 16]), u32>,
    pool4: BTreeMap<(u32, [u8; 4]), Pool4Value>,
    static4: BTreeMap<StaticKey, u32>,
}

impl std::fmt::Debug for Pool4Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.port_first, self.port_last);
        write!(f, "kind {} ports {first}-{last}", self.kind)
    }
}

impl std::fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = u16::from_be_bytes(self.port);
        write!(
            f,
            "{}:{port}/{}",
            Ipv4Addr::from(self.address),
            self.protocol
        )
    }
}

const OURS: u16 = 0;
const SHARED: u16 = 1;
const EXCLUDED: u16 = 2;

impl Tables {
    fn of(config: &Nat64Config) -> Result<Tables, StartError> {
        let mut tables = Tables::default();
        for prefix in &config.pref64 {
            let key = (u32::from(prefix.length()), prefix.address().octets());
            tables.pref64.insert(key, 1);
        }
        for prefix in &config.pool4 {
            tables.add_pool(prefix)?;
        }
        for entry in &config.static_bib {
            let key = StaticKey {
                address: entry.v4.ip.octets(),
                port: entry.v4.port.to_be_bytes(),
                protocol: match entry.protocol {
                    Protocol::Icmp => 1,
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                },
            };
            tables.static4.insert(key, 1);
        }
        Ok(tables)
    }

    fn add_pool(&mut self, pool: &Pool4Prefix) -> Result<(), StartError> {
        let value = |kind| Pool4Value {
            kind,
            port_first: *pool.ports.start(),
            port_last: *pool.ports.end(),
            pad: 0,
        };
        let kind = if pool.shared_with_host { SHARED } else { OURS };
        let key = (u32::from(pool.length), pool.address.octets());
        let before = self.pool4.insert(key, value(kind));
        // One that another prefix excludes may be on its way out, and go on by itself.
        let is_other = |before: Pool4Value| before.kind != EXCLUDED && before != value(kind);
        if before.is_some_and(is_other) {
            let (address, length) = (pool.address, pool.length);
            let reason = format!("pool4 {address}/{length} is given twice with different ports");
            return Err(StartError::Steering { reason });
        }
        for address in &pool.exclude {
            // An interface's pool may stand for it already.
            let key = (32, address.octets());
            self.pool4.entry(key).or_insert(value(EXCLUDED));
        }
        Ok(())
    }
}

impl Steering {
    /// Puts the attached programs together. Nothing is steered before [`Steering::update`].
    pub(super) fn new(interfaces: Vec<Attached>) -> Steering {
        Steering {
            interfaces,
            tables: Tables::default(),
        }
    }

    /// Makes the maps hold a configuration's prefixes, pool and static entries, live: what is
    /// new comes in before what is old goes out.
    pub fn update(&mut self, config: &Nat64Config) -> Result<(), StartError> {
        let tables = Tables::of(config)?;
        for interface in &mut self.interfaces {
            interface
                .write(&self.tables, &tables)
                .map_err(|error| StartError::Steering {
                    reason: error.to_string(),
                })?;
        }
        self.tables = tables;
        Ok(())
    }

    /// What the programs counted, in the order of the interfaces.
    pub fn statistics(&self) -> Vec<SteeringStatistics> {
        self.interfaces
            .iter()
            .map(|interface| interface.statistics().unwrap_or_default())
            .collect()
    }

    /// Sends a queue's packets to a socket.
    pub(super) fn connect(&mut self, index: usize, queue: u32, socket: RawFd) -> io::Result<()> {
        let bpf = &mut self.interfaces[index].bpf;
        let mut sockets: XskMap<&mut MapData> = map(bpf, "SOCKETS").map_err(io::Error::other)?;
        sockets.set(queue, socket, 0).map_err(io::Error::other)
    }

    pub(super) fn mode(&self, index: usize) -> XdpMode {
        self.interfaces[index].mode
    }

    pub(super) fn notes(&self, index: usize) -> Vec<String> {
        self.interfaces[index].notes.clone()
    }
}

fn map<'a, T>(bpf: &'a mut Ebpf, name: &str) -> Result<T, MapError>
where
    T: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
{
    let map = bpf.map_mut(name).ok_or_else(|| MapError::InvalidName {
        name: name.to_owned(),
    })?;
    T::try_from(map)
}

impl Attached {
    /// Loads a program for an interface and attaches it.
    pub fn attach(interface: &Interface, config: &InterfaceConfig) -> Result<Attached, StartError> {
        let modes: &[XdpMode] = match config.xdp_mode {
            XdpModeChoice::Auto => &[XdpMode::Native, XdpMode::Generic],
            XdpModeChoice::Native => &[XdpMode::Native],
            XdpModeChoice::Generic => &[XdpMode::Generic],
        };
        let mut notes = Vec::new();
        for (index, &mode) in modes.iter().enumerate() {
            let (bpf, result) = load_and_attach(interface, config, mode)?;
            match result {
                Ok(link) => {
                    return Ok(Attached {
                        bpf,
                        mode,
                        notes,
                        link,
                    });
                }
                Err(errno) => {
                    let error = attach_error(interface, mode, errno);
                    let last = index + 1 == modes.len();
                    if last || !matches!(error, StartError::AttachFailed { .. }) {
                        return Err(error);
                    }
                    notes.push(error.to_string());
                }
            }
        }
        unreachable!("the last mode returns")
    }

    fn write(&mut self, old: &Tables, new: &Tables) -> Result<(), MapError> {
        let mut pref64: LpmTrie<_, [u8; 16], u32> = map(&mut self.bpf, "PREF64")?;
        replace(&old.pref64, &new.pref64, |(length, address), value| {
            let key = Key::new(*length, *address);
            match value {
                Some(value) => pref64.insert(&key, value, 0),
                None => pref64.remove(&key),
            }
        })?;
        let mut pool4: LpmTrie<_, [u8; 4], Pool4Value> = map(&mut self.bpf, "POOL4")?;
        replace(&old.pool4, &new.pool4, |(length, address), value| {
            let key = Key::new(*length, *address);
            match value {
                Some(value) => pool4.insert(&key, value, 0),
                None => pool4.remove(&key),
            }
        })?;
        let mut static4: HashMap<_, StaticKey, u32> = map(&mut self.bpf, "STATIC4")?;
        replace(&old.static4, &new.static4, |key, value| match value {
            Some(value) => static4.insert(key, value, 0),
            None => static4.remove(key),
        })
    }

    fn statistics(&self) -> Option<SteeringStatistics> {
        let map = self.bpf.map("STATISTICS")?;
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(map).ok()?;
        let sum = |index| -> Option<u64> { Some(counts.get(&index, 0).ok()?.iter().sum()) };
        Some(SteeringStatistics {
            to_gate64_v6: sum(0)?,
            to_gate64_v4: sum(1)?,
            no_socket: sum(2)?,
            shared_passed: sum(3)?,
            passed: sum(4)?,
        })
    }
}

/// Sets what is new or changed, then removes (`None`) what is gone.
fn replace<K: Ord, V: PartialEq + Copy>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    mut set: impl FnMut(&K, Option<V>) -> Result<(), MapError>,
) -> Result<(), MapError> {
    for (key, value) in new {
        if old.get(key) != Some(value) {
            set(key, Some(*value))?;
        }
    }
    for key in old.keys() {
        if !new.contains_key(key) {
            set(key, None)?;
        }
    }
    Ok(())
}

type AttachResult = Result<FdLink, ProgramError>;

fn load_and_attach(
    interface: &Interface,
    config: &InterfaceConfig,
    mode: XdpMode,
) -> Result<(Ebpf, AttachResult), StartError> {
    let loaded = EbpfLoader::new()
        .map_max_entries("SOCKETS", interface.queues)
        .load(OBJECT);
    let mut bpf = loaded.map_err(load_error)?;
    set_vlan(&mut bpf, config.vlan).map_err(|error| load_error(error.into()))?;
    let name = if interface.mtu > SINGLE_BUFFER_MTU {
        "steer_frags"
    } else {
        "steer"
    };
    let program = bpf.program_mut(name).expect("the object has both programs");
    let program: &mut Xdp = program.try_into().expect("both are XDP programs");
    program.load().map_err(|error| load_error(error.into()))?;
    let result = attach_link(program, interface.index, mode);
    Ok((bpf, result))
}

fn set_vlan(bpf: &mut Ebpf, vlan: Option<u16>) -> Result<(), MapError> {
    let mut settings: Array<_, Settings> = map(bpf, "SETTINGS")?;
    let vlan = vlan.unwrap_or(0);
    settings.set(0, Settings { vlan }, 0)
}

/// Attaches as a link only: aya falls back to netlink, whose programs outlive a killed process.
fn attach_link(program: &mut Xdp, index: u32, mode: XdpMode) -> AttachResult {
    let mode = match mode {
        XdpMode::Native => aya::programs::XdpMode::Driver,
        XdpMode::Generic => aya::programs::XdpMode::Skb,
    };
    let id = program.attach_to_if_index(index, mode)?;
    let link = program.take_link(id)?;
    // What is no link is detached here, by being dropped.
    FdLink::try_from(link).map_err(|_| {
        ProgramError::SyscallError(SyscallError {
            call: "bpf_link_create",
            io_error: io::Error::from_raw_os_error(libc::EINVAL),
        })
    })
}

fn load_error(error: EbpfError) -> StartError {
    let errno = errno(&error);
    match errno {
        Some(libc::EPERM | libc::EACCES) => StartError::MissingPrivilege {
            action: "load the XDP program",
        },
        Some(libc::ENOSYS) => StartError::KernelFeature {
            action: "load BPF programs",
            source: io::Error::from_raw_os_error(libc::ENOSYS),
        },
        _ => StartError::LoadFailed {
            reason: chain(&error),
        },
    }
}

fn attach_error(interface: &Interface, mode: XdpMode, error: ProgramError) -> StartError {
    let name = interface.name.clone();
    let hint = match errno(&error) {
        // EBUSY: another link; EEXIST: a program attached by netlink, or the other mode.
        Some(libc::EBUSY | libc::EEXIST) => {
            return StartError::ProgramAttached { interface: name };
        }
        Some(libc::EPERM | libc::EACCES) => {
            return StartError::MissingPrivilege {
                action: "attach the XDP program",
            };
        }
        Some(libc::EOPNOTSUPP) => "the driver has no XDP",
        Some(libc::ENOSPC) => {
            "veth wants at least as many receive queues as its peer has transmit queues (`ethtool -L`)"
        }
        Some(libc::ERANGE) => {
            "the MTU is too large for XDP in this driver (`ip link set … mtu 1500`)"
        }
        Some(libc::EINVAL) => {
            "the driver refuses; large receive offload, or its MTU or queue set-up"
        }
        Some(libc::ENOMEM) => "no memory",
        _ => "unexpected",
    };
    StartError::AttachFailed {
        interface: name,
        mode: mode.name(),
        reason: format!("{hint} ({})", chain(&error)),
    }
}

/// The system's error number somewhere below an error.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// An error with all that caused it, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(length: u8, first: u16, shared: bool) -> Pool4Prefix {
        Pool4Prefix {
            address: Ipv4Addr::new(192, 0, 2, 0),
            length,
            ports: first..=65535,
            exclude: vec![Ipv4Addr::new(192, 0, 2, 7)],
            shared_with_host: shared,
            ..Pool4Prefix::default()
        }
    }

    #[test]
    fn excluded_addresses_are_entries_of_their_own() {
        let config = Nat64Config {
            pool4: vec![pool(24, 1024, false)],
            ..Nat64Config::default()
        };
        let tables = Tables::of(&config).unwrap();
        assert_eq!(tables.pool4[&(24, [192, 0, 2, 0])].kind, OURS);
        assert_eq!(tables.pool4[&(32, [192, 0, 2, 7])].kind, EXCLUDED);
    }

    #[test]
    fn an_address_excluded_from_a_prefix_can_be_an_interfaces_pool() {
        let shared = Pool4Prefix {
            address: Ipv4Addr::new(192, 0, 2, 7),
            exclude: Vec::new(),
            ..pool(32, 1024, true)
        };
        let both = [pool(24, 1024, false), shared];
        for pool4 in [both.to_vec(), both.into_iter().rev().collect()] {
            let config = Nat64Config {
                pool4,
                ..Nat64Config::default()
            };
            let tables = Tables::of(&config).unwrap();
            assert_eq!(tables.pool4[&(32, [192, 0, 2, 7])].kind, SHARED);
        }
    }

    #[test]
    fn one_address_with_two_ranges_is_refused() {
        let config = Nat64Config {
            pool4: vec![pool(32, 1024, true), pool(32, 2048, true)],
            ..Nat64Config::default()
        };
        assert!(Tables::of(&config).is_err());
    }

    #[test]
    fn replacing_adds_before_it_removes() {
        let old = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c')]);
        let new = BTreeMap::from([(2, 'b'), (3, 'x'), (4, 'd')]);
        let mut seen = Vec::new();
        replace(&old, &new, |key, value| {
            seen.push((*key, value));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(3, Some('x')), (4, Some('d')), (1, None)]);
    }
}
