//! ICMP: ping, traceroute and path MTU discovery.

use super::super::topology::{NARROW, NARROW_MTU, Namespace, ROUTER1, ROUTER2, SERVER, in_pref64};
use super::{Finding, client, expect, output};

pub(super) fn ping(size: u16) -> Finding {
    answers(&format!("-s {size} {}", in_pref64(SERVER)))
}

/// Five pings with these options, one by one: of several, ping waits for the last only twice as long as an answer took
/// before.
pub(super) fn answers(options: &str) -> Finding {
    let mut answer = String::new();
    for _ in 0..5 {
        answer = client(&format!("ping -6 -n -c 1 -W 5 {options}"), 10)?;
        expect(&answer, " 0% packet loss")?;
    }
    let times = answer.lines().find(|line| line.starts_with("rtt"));
    Ok(times.unwrap_or("5 of 5").to_owned())
}

/// Hop 1 is the gateway; then come both IPv4 routers and the server, each as its Pref64 address.
pub(super) fn traceroute() -> Finding {
    let server = in_pref64(SERVER);
    // One probe at a time: it is not waited for any shorter because a later one is answered.
    let answer = client(
        &format!("traceroute -6 -n -q 1 -N 1 -w 7 -m 8 {server}"),
        60,
    )?;
    let hops: Vec<&str> = answer
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let wanted = [ROUTER1, ROUTER2, SERVER].map(|hop| in_pref64(hop).to_string());
    if hops.len() == 4 && hops[0] != "*" && hops[1..] == wanted {
        Ok(hops.join(" "))
    } else {
        Err(format!(
            "expected the gateway, then {}, found {}",
            wanted.join(" "),
            hops.join(" ")
        ))
    }
}

/// RFC 7915 section 4.2: an ICMPv4 "fragmentation needed" of MTU 1280 becomes a "packet too big"
/// of 1300, the 20 octets by which the IPv6 header is longer.
pub(super) fn path_mtu() -> Finding {
    let narrow = in_pref64(NARROW);
    let command = format!("ping -6 -n -c 3 -i 0.3 -W 5 -M do -s 1400 {narrow}");
    let pings = output(Namespace::Client, &command, 20)?;
    learned_mtu().map_err(|why| format!("{why}; ping said {:?}", pings.reason()))?;
    let wanted = NARROW_MTU + 20;
    let fits = wanted - 40 - 8;
    answers(&format!("-M do -s {fits} {narrow}"))?;
    Ok(format!("mtu {wanted}"))
}

/// Fails unless the client's kernel has learned the narrow path's MTU.
pub(super) fn learned_mtu() -> Result<(), String> {
    let wanted = format!("mtu {}", NARROW_MTU + 20);
    let route = client(&format!("ip -6 route get {}", in_pref64(NARROW)), 10)?;
    expect(&route, &wanted).map_err(|why| format!("the client's route: {why}"))
}
