//! The configured interfaces found among the kernel's links.

use std::collections::HashMap;

use gate64_dataplane::config::InterfaceAddress;
use gate64_dataplane::route::{Port, PortId};

use super::kernel::{Address, Link};
use super::{InterfaceState, NetlinkError, PortSpec};

/// Why an interface cannot be used from the start.
pub fn check(specs: &[PortSpec], links: &[Link]) -> Result<(), NetlinkError> {
    for spec in specs {
        let Some(link) = links.iter().find(|link| link.name == spec.name) else {
            return Err(NetlinkError::MissingInterface {
                name: spec.name.clone(),
                present: links.iter().map(|link| link.name.clone()).collect(),
            });
        };
        if !link.is_ethernet || link.mac == [0; 6] {
            return Err(NetlinkError::NotEthernet {
                name: spec.name.clone(),
            });
        }
    }
    Ok(())
}

/// The state of every configured interface, in the order of the configuration.
pub fn interfaces(
    specs: &[PortSpec],
    links: &[Link],
    addresses: &[Address],
) -> Vec<InterfaceState> {
    let state = |(index, spec): (usize, &PortSpec)| {
        let port = PortId(u8::try_from(index).unwrap_or(u8::MAX));
        interface(port, spec, links, addresses)
    };
    specs.iter().enumerate().map(state).collect()
}

fn interface(
    port: PortId,
    spec: &PortSpec,
    links: &[Link],
    addresses: &[Address],
) -> InterfaceState {
    let link = links.iter().find(|link| link.name == spec.name);
    // The kernel's addresses and routes of a VLAN are those of its VLAN device. Without one,
    // they can only be those of the interface itself.
    let layer3 = link.map(|link| vlan_device(link, spec.vlan, links).unwrap_or(link));
    let (Some(link), Some(layer3)) = (link, layer3) else {
        return InterfaceState {
            port,
            name: spec.name.clone(),
            vlan: spec.vlan,
            is_present: false,
            index: 0,
            mac: [0; 6],
            mtu: 0,
            is_admin_up: false,
            has_carrier: false,
            addresses: Vec::new(),
        };
    };
    InterfaceState {
        port,
        name: spec.name.clone(),
        vlan: spec.vlan,
        is_present: true,
        index: layer3.index,
        mac: layer3.mac,
        mtu: layer3.mtu,
        is_admin_up: link.is_admin_up && layer3.is_admin_up,
        has_carrier: link.has_carrier && layer3.has_carrier,
        addresses: addresses_of(layer3.index, addresses),
    }
}

fn vlan_device<'a>(link: &Link, vlan: Option<u16>, links: &'a [Link]) -> Option<&'a Link> {
    let id = vlan?;
    links
        .iter()
        .find(|above| above.vlan_of == Some((link.index, id)))
}

/// The preferred ones first.
fn addresses_of(index: u32, addresses: &[Address]) -> Vec<InterfaceAddress> {
    let of_link = |second_choice| {
        addresses
            .iter()
            .filter(move |a| a.index == index && a.is_second_choice == second_choice)
            .map(|a| a.address)
    };
    of_link(false).chain(of_link(true)).collect()
}

/// The interface as a worker sees it.
pub fn port(state: &InterfaceState) -> Port {
    Port {
        name: state.name.clone(),
        index: state.index,
        mac: state.mac,
        mtu: u16::try_from(state.mtu).unwrap_or(u16::MAX),
        is_up: state.is_up(),
        vlan: state.vlan,
        addresses: state.addresses.clone(),
    }
}

/// Which interface a kernel index belongs to.
pub fn by_index(states: &[InterfaceState]) -> HashMap<u32, PortId> {
    let present = states.iter().filter(|state| state.is_present);
    present.map(|state| (state.index, state.port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: [2, 0, 0, 0, 0, u8::try_from(index).unwrap()],
            is_ethernet: true,
            mtu: 1500,
            is_admin_up: true,
            has_carrier: true,
            vlan_of: None,
        }
    }

    fn spec(name: &str, vlan: Option<u16>) -> PortSpec {
        PortSpec {
            name: name.into(),
            vlan,
        }
    }

    #[test]
    fn a_vlans_addresses_are_those_of_its_device() {
        let mut vlan = link(7, "up.100");
        vlan.vlan_of = Some((3, 100));
        let mut other = link(8, "up.200");
        other.vlan_of = Some((3, 200));
        let links = [link(3, "up"), other, vlan];
        let address = |index, ip: &str, is_second_choice| Address {
            index,
            address: InterfaceAddress {
                ip: ip.parse().unwrap(),
                length: 24,
            },
            is_second_choice,
        };
        let addresses = [
            address(3, "192.0.2.1", false),
            address(7, "198.51.100.2", true),
            address(7, "198.51.100.1", false),
        ];
        let states = interfaces(&[spec("up", Some(100))], &links, &addresses);
        assert_eq!((states[0].index, states[0].vlan), (7, Some(100)));
        let ips: Vec<String> = states[0]
            .addresses
            .iter()
            .map(|a| a.ip.to_string())
            .collect();
        assert_eq!(ips, ["198.51.100.1", "198.51.100.2"]);
        assert_eq!(by_index(&states).get(&7), Some(&PortId(0)));

        let without = interfaces(&[spec("up", Some(300))], &links, &addresses);
        assert_eq!(without[0].index, 3);
    }

    #[test]
    fn a_missing_interface_is_named_with_those_that_are_there() {
        let error = check(&[spec("up", None)], &[link(1, "eth0"), link(2, "eth1")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no interface `up` on this host; there are: eth0, eth1. Correct the name of \
             the [[interface]] or create the interface first"
        );
        let states = interfaces(&[spec("up", None)], &[], &[]);
        assert!(!states[0].is_present && !port(&states[0]).is_up);
    }
}
