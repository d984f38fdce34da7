//! What an interface cannot do, said before anything is changed.

use std::fs;
use std::path::Path;

use crate::exit::Failure;

/// A modem in raw-IP mode (`linux/if_arp.h`; libc 0.2 lacks it).
const ARPHRD_RAWIP: u16 = 519;

/// Which end of the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Upstream,
    Downstream,
}

/// What decides whether an interface can be shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Traits {
    /// ARPHRD_… of `linux/if_arp.h`.
    link_type: u16,
    /// What it is a port of.
    port_of: Option<String>,
    is_wireless: bool,
    /// Interfaces below that merge frames (GRO).
    merging_below: Vec<String>,
}

/// Whether the two interfaces can be what they are to be, and what an operator should know of them.
///
/// # Errors
/// One line that says what an interface cannot do, and what to do instead.
pub fn check(upstream: &str, downstream: &str) -> Result<Vec<String>, Failure> {
    let mut notes = Vec::new();
    for (name, end) in [(upstream, End::Upstream), (downstream, End::Downstream)] {
        let traits = traits(name);
        if let Some(refusal) = refusal(name, &traits) {
            return Err(Failure::Interface(refusal));
        }
        notes.extend(remarks(name, &traits, end));
    }
    Ok(notes)
}

fn refusal(name: &str, traits: &Traits) -> Option<String> {
    if let Some(master) = &traits.port_of {
        return Some(format!(
            "{name} is a port of {master}, which has the addresses: share {master} itself"
        ));
    }
    let what = match traits.link_type {
        libc::ARPHRD_ETHER => return None,
        libc::ARPHRD_LOOPBACK => {
            return Some(format!(
                "{name} is the loopback interface: no other host is behind it"
            ));
        }
        libc::ARPHRD_PPP => "is a point-to-point link (PPP)",
        libc::ARPHRD_NONE | ARPHRD_RAWIP => {
            "has no link layer (a tun device, WireGuard, or a modem in raw-IP mode)"
        }
        libc::ARPHRD_TUNNEL | libc::ARPHRD_TUNNEL6 | libc::ARPHRD_SIT | libc::ARPHRD_IPGRE => {
            "is a tunnel without Ethernet frames"
        }
        libc::ARPHRD_IEEE80211_RADIOTAP | libc::ARPHRD_IEEE80211 => {
            "is a Wi-Fi interface in monitor mode"
        }
        _ => "is not an Ethernet interface",
    };
    Some(format!(
        "{name} {what}, and gate64 speaks Ethernet: use an interface with Ethernet addresses, such as \
         that of a router which has the link (a tap device instead of tun, a modem in Ethernet mode)"
    ))
}

fn remarks(name: &str, traits: &Traits, end: End) -> Vec<String> {
    let mut notes = Vec::new();
    if traits.is_wireless && end == End::Downstream {
        notes.push(format!(
            "{name} is a Wi-Fi interface: hosts reach it only if it is an access point (hostapd), not \
             as a station of another one"
        ));
    }
    if !traits.merging_below.is_empty() {
        let ports = traits.merging_below.join(", ");
        notes.push(format!(
            "{ports} below {name} may merge frames (GRO) into longer ones than gate64 takes, which \
             are lost: `ethtool -K PORT gro off lro off` for each"
        ));
    }
    notes
}

fn traits(name: &str) -> Traits {
    let directory = Path::new("/sys/class/net").join(name);
    let is_port = ["brport", "bonding_slave"];
    let is_port = is_port.iter().any(|kind| directory.join(kind).exists());
    let master = fs::read_link(directory.join("master")).ok();
    let master = master.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let uevent = fs::read_to_string(directory.join("uevent")).unwrap_or_default();
    let below = fs::read_dir(&directory).into_iter().flatten();
    let below = below.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        Some(name.strip_prefix("lower_")?.to_owned())
    });
    let mut merging_below: Vec<String> = below
        .filter(|port| gate64_dataplane::io::merges_frames(port))
        .collect();
    merging_below.sort();
    Traits {
        link_type: link_type(name),
        port_of: master.filter(|_| is_port),
        is_wireless: uevent.lines().any(|line| line == "DEVTYPE=wlan"),
        merging_below,
    }
}

fn link_type(name: &str) -> u16 {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut of_link = addresses.filter(|one| one.interface_name == name);
    let told = of_link.find_map(|one| Some(one.address?.as_link_addr()?.hatype()));
    // An interface without a link-layer address is told without its type.
    told.or_else(|| {
        let path = Path::new("/sys/class/net").join(name).join("type");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    })
    .unwrap_or(libc::ARPHRD_NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_type(link_type: u16) -> Traits {
        Traits {
            link_type,
            ..Traits::default()
        }
    }

    #[test]
    fn each_kind_of_link_is_refused_by_its_name() {
        assert_eq!(refusal("eth0", &of_type(libc::ARPHRD_ETHER)), None);
        for (link_type, says) in [
            (libc::ARPHRD_LOOPBACK, "no other host"),
            (libc::ARPHRD_PPP, "point-to-point link (PPP)"),
            (libc::ARPHRD_NONE, "no link layer (a tun device, WireGuard"),
            (ARPHRD_RAWIP, "modem in raw-IP mode"),
            (libc::ARPHRD_IPGRE, "tunnel"),
            (libc::ARPHRD_IEEE80211_RADIOTAP, "monitor mode"),
            (libc::ARPHRD_INFINIBAND, "not an Ethernet interface"),
        ] {
            let text = refusal("x0", &of_type(link_type)).unwrap();
            assert!(text.starts_with("x0 ") && text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_port_points_at_its_bridge() {
        let traits = Traits {
            port_of: Some("br0".to_owned()),
            ..of_type(libc::ARPHRD_ETHER)
        };
        assert!(
            refusal("eth1", &traits)
                .unwrap()
                .contains("share br0 itself")
        );
    }

    #[test]
    fn wi_fi_is_remarked_on_where_clients_are() {
        let traits = Traits {
            is_wireless: true,
            ..of_type(libc::ARPHRD_ETHER)
        };
        assert_eq!(
            remarks("wlan0", &traits, End::Upstream),
            Vec::<String>::new()
        );
        let notes = remarks("wlan0", &traits, End::Downstream);
        assert!(notes[0].contains("access point"), "{notes:?}");
    }

    #[test]
    fn merged_frames_are_remarked_on_with_what_to_do() {
        let traits = Traits {
            merging_below: vec!["eth1".to_owned(), "eth2".to_owned()],
            ..of_type(libc::ARPHRD_ETHER)
        };
        let notes = remarks("br0", &traits, End::Downstream);
        assert!(notes[0].starts_with("eth1, eth2 below br0") && notes[0].contains("gro off"));
    }

    #[test]
    fn this_machines_loopback_is_known() {
        assert_eq!(link_type("lo"), libc::ARPHRD_LOOPBACK);
        assert!(check("lo", "lo").is_err());
    }
}
