//! What the kernel says of an interface, asked by ioctl so that it is the calling thread's
//! network namespace that answers (`/sys` shows the one it was mounted in).

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::error::{StartError, sysret};

/// Where an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// Behind the driver, on packets that the kernel has already copied.
    Generic,
}

impl XdpMode {
    /// The word in configuration and status.
    pub const fn name(self) -> &'static str {
        match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        }
    }
}

/// An interface as it was taken into use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// The kernel's index.
    pub index: u32,
    /// Its driver.
    pub driver: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU. Frames longer than a chunk are dropped by the kernel (`rx_dropped`).
    pub mtu: u32,
    /// Receive queues, each with an AF_XDP socket.
    pub queues: u32,
    /// Where the XDP program runs.
    pub mode: XdpMode,
    /// Whether frames are shared with the driver.
    pub zero_copy: bool,
    /// Whether the workers drive its queues themselves.
    pub busy_poll: bool,
    /// The 802.1Q id in use.
    pub vlan: Option<u16>,
    /// Why it is not better than it is (native mode refused …).
    pub notes: Vec<String>,
}

/// The facts of an interface before it is taken into use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub name: String,
    pub index: u32,
    pub driver: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub queues: u32,
}

impl Interface {
    /// Whether the operator has set the interface up for busy polling: without deferred
    /// interrupts it only adds system calls. Known only where `/sys` is of this namespace.
    pub fn is_set_up_for_busy_poll(&self) -> bool {
        let read = |file: &str| -> Option<u64> {
            let path = format!("/sys/class/net/{}/{file}", self.name);
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        let positive = |file| read(file).is_some_and(|value| value > 0);
        read("ifindex") == Some(u64::from(self.index))
            && positive("napi_defer_hard_irqs")
            && positive("gro_flush_timeout")
    }

    /// Asks the kernel.
    pub fn find(name: &str) -> Result<Interface, StartError> {
        let no_such = || StartError::NoSuchInterface {
            interface: name.to_owned(),
        };
        let c_name = CString::new(name).map_err(|_| no_such())?;
        // SAFETY: a string that ends in zero and lives through the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 || c_name.as_bytes_with_nul().len() > libc::IFNAMSIZ {
            return Err(no_such());
        }
        let asker = Asker::open(&c_name).map_err(|source| StartError::System {
            action: "ask the kernel about interfaces",
            source,
        })?;
        asker.describe(name, index)
    }
}

/// The driver of an interface that is up.
pub fn driver_of(name: &str) -> Option<String> {
    Interface::find(name).ok().map(|interface| interface.driver)
}

/// Whether an interface merges received frames (GRO) before it hands them on.
pub fn merges_frames(name: &str) -> bool {
    let mut value = EthtoolValue {
        command: ETHTOOL_GGRO,
        data: 0,
    };
    let asked = CString::new(name)
        .map_err(io::Error::from)
        .and_then(|name| Asker::open(&name))
        .and_then(|asker| asker.ethtool(&mut value));
    asked.is_ok() && value.data != 0
}

/// A socket to ask with, and a request that already names the interface.
struct Asker {
    socket: OwnedFd,
    request: libc::ifreq,
}

impl Asker {
    fn open(name: &CString) -> io::Result<Asker> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        let fd = sysret(fd)?;
        // SAFETY: a struct of integers and a union of the same, for which zeroes are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        Ok(Asker {
            // SAFETY: the descriptor was just made and nobody else has it.
            socket: unsafe { OwnedFd::from_raw_fd(fd) },
            request,
        })
    }

    fn describe(&self, name: &str, index: u32) -> Result<Interface, StartError> {
        let gone = |_| StartError::NoSuchInterface {
            interface: name.to_owned(),
        };
        let flags = self.ask(libc::SIOCGIFFLAGS).map_err(gone)?;
        // SAFETY: SIOCGIFFLAGS fills this member.
        let flags = i32::from(unsafe { flags.ifr_ifru.ifru_flags });
        if flags & libc::IFF_UP == 0 {
            return Err(StartError::InterfaceDown {
                interface: name.to_owned(),
            });
        }
        let address = self.ask(libc::SIOCGIFHWADDR).map_err(gone)?;
        // SAFETY: SIOCGIFHWADDR fills this member.
        let address = unsafe { address.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(StartError::NotEthernet {
                interface: name.to_owned(),
            });
        }
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            [*to] = from.to_ne_bytes();
        }
        let mtu = self.ask(libc::SIOCGIFMTU).map_err(gone)?;
        // SAFETY: SIOCGIFMTU fills this member.
        let mtu = unsafe { mtu.ifr_ifru.ifru_mtu };
        Ok(Interface {
            name: name.to_owned(),
            index,
            driver: self.driver().unwrap_or_else(|_| "unknown".to_owned()),
            mac,
            mtu: u32::try_from(mtu).unwrap_or(0),
            queues: self.queues().unwrap_or(1),
        })
    }

    fn ask(&self, what: libc::Ioctl) -> io::Result<libc::ifreq> {
        let mut request = self.request;
        // SAFETY: these requests read the name and write into the same `ifreq`, which lives
        // through the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), what, &raw mut request) };
        sysret(result).map(|_| request)
    }

    /// Sends an ethtool command, a struct that the kernel fills.
    fn ethtool<T>(&self, command: &mut T) -> io::Result<()> {
        let mut request = self.request;
        request.ifr_ifru.ifru_data = (command as *mut T).cast();
        // SAFETY: `T` is the struct of the command in its first word, as the callers below
        // establish, and lives through the call.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        sysret(result).map(|_| ())
    }

    fn driver(&self) -> io::Result<String> {
        let mut info = DriverInfo {
            command: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            rest: [0; 160],
        };
        self.ethtool(&mut info)?;
        let name = info.driver.split(|&octet| octet == 0).next();
        Ok(String::from_utf8_lossy(name.unwrap_or_default()).into_owned())
    }

    /// Active receive queues. Drivers without the command have one.
    fn queues(&self) -> io::Result<u32> {
        let mut channels = Channels {
            command: ETHTOOL_GCHANNELS,
            ..Channels::default()
        };
        self.ethtool(&mut channels)?;
        Ok((channels.rx_count + channels.combined_count).max(1))
    }
}

const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

const ETHTOOL_GGRO: u32 = 0x2b;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_interface_has_a_name_in_its_error() {
        let error = Interface::find("g64-none").unwrap_err();
        assert!(error.to_string().contains("g64-none"), "{error}");
    }

    #[test]
    fn the_loopback_is_not_ethernet() {
        let error = Interface::find("lo").unwrap_err();
        assert!(
            matches!(
                error,
                StartError::NotEthernet { .. } | StartError::InterfaceDown { .. }
            ),
            "{error}"
        );
    }
}
