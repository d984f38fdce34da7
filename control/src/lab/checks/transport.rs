//! UDP and TCP, from the client and towards it.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpSocket;

use super::super::netns;
use super::super::process::{Process, command_in};
use super::super::serve::{ECHO_PORT, WHOAMI_PORT, body};
use super::super::state;
use super::super::tool;
use super::super::topology::{
    CLIENT, NARROW, Namespace, SERVER, STATIC_POOL4, STATIC_TCP_PORT, STATIC_UDP_PORT, STRANGER,
    in_pref64,
};
use super::forwarding::learned_mtu;
use super::{Finding, client, expect, output, success};

/// Time for one small exchange.
const WAIT: Duration = Duration::from_secs(5);
/// Octets sent each way over the narrow path.
const NARROW_LEN: u64 = 3_000_000;
/// Octets of a datagram that no link carries whole.
const FRAGMENTED_LEN: usize = 4000;
/// Connections that are open at the same time.
const PARALLEL: usize = 200;

pub(super) fn page() -> Finding {
    let page = client("curl -sS --max-time 15 http://v4only.lab.test/", 20)?;
    expect(&page, "answers 192.0.2.")?;
    Ok(page.trim().to_owned())
}

pub(super) fn large_download() -> Finding {
    tool::find("curl").map_err(|error| error.to_string())?;
    tool::find("sha256sum").map_err(|error| error.to_string())?;
    let url = format!("http://v4only.lab.test/bytes/{}", body::LARGE_LEN);
    let pipe = format!("set -o pipefail; curl -sS --max-time 240 {url} | sha256sum");
    let command = command_in(Namespace::Client, ["bash", "-c", &pipe]);
    let output = tool::complete(command, Duration::from_secs(250)).map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(output.reason());
    }
    expect(&output.stdout, body::LARGE_SHA256)?;
    Ok(format!("SHA-256 {}…", &body::LARGE_SHA256[..12]))
}

/// ncat sends a line and has to read the same line back.
fn ncat(namespace: Namespace, options: &str, address: &str, port: u16) -> Finding {
    tool::find("ncat").map_err(|error| error.to_string())?;
    let line = format!("gate64 {options} {port}");
    // It would end with its input, before a late answer.
    let script = format!(
        "coproc ncat {options} {address} {port}; echo '{line}' >&${{COPROC[1]}}; \
         read -r -t 10 said <&${{COPROC[0]}}; kill $COPROC_PID; echo \"$said\""
    );
    let command = command_in(namespace, ["bash", "-c", &script]);
    let output = tool::complete(command, Duration::from_secs(15)).map_err(|e| e.to_string())?;
    if output.stdout.trim() == line {
        Ok("the line came back".into())
    } else {
        Err(format!("`{script}`: {}", output.reason()))
    }
}

pub(super) fn udp_echo() -> Finding {
    ncat(
        Namespace::Client,
        "-6 -u",
        &in_pref64(SERVER).to_string(),
        ECHO_PORT,
    )
}

/// RFC 6146 section 3.4. Pings in fragments are among deploy/test/test_interoperation.py.
pub(super) fn udp_fragments() -> Finding {
    let client = socket(Namespace::Client, CLIENT.into())?;
    let sent: Vec<u8> = (0..FRAGMENTED_LEN)
        .map(|at| u8::try_from(at % 251).unwrap_or(0))
        .collect();
    let mut received = vec![0; FRAGMENTED_LEN + 1];
    let mut exchange = || -> io::Result<usize> {
        client.send_to(&sent, (in_pref64(SERVER), ECHO_PORT))?;
        Ok(client.recv_from(&mut received)?.0)
    };
    let len = exchange().map_err(|error| error.to_string())?;
    if received[..len] != sent[..] {
        return Err(format!("{len} other octets came back"));
    }
    Ok("the same octets came back".into())
}

pub(super) fn tcp_echo() -> Finding {
    ncat(
        Namespace::Client,
        "-6",
        &in_pref64(SERVER).to_string(),
        ECHO_PORT,
    )
}

pub(super) fn udp_static() -> Finding {
    ncat(
        Namespace::Internet,
        "-4 -u",
        &STATIC_POOL4.to_string(),
        STATIC_UDP_PORT,
    )
}

pub(super) fn tcp_static() -> Finding {
    let url = format!("http://{STATIC_POOL4}:{STATIC_TCP_PORT}/");
    let page = success(
        Namespace::Internet,
        &format!("curl -sS --max-time 10 {url}"),
        15,
    )?;
    expect(&page, &in_pref64(SERVER).to_string())?;
    Ok(page.trim().to_owned())
}

/// Makes a mapping by sending to one IPv4 address, then is reached from another through it
/// (RFC 6146 section 3.5.1 with endpoint-independent filtering).
pub(super) fn udp_into_mapping() -> Finding {
    let inside = socket(Namespace::Client, CLIENT.into())?;
    let mapped = udp_mapping(&inside).map_err(|error| format!("no mapping: {error}"))?;
    let stranger = socket(Namespace::Internet, STRANGER.into())?;
    let exchange = || -> io::Result<SocketAddr> {
        stranger.send_to(b"knock", SocketAddr::V4(mapped))?;
        let mut buffer = [0; 64];
        let (len, from) = inside.recv_from(&mut buffer)?;
        inside.send_to(&buffer[..len], from)?;
        let (len, _) = stranger.recv_from(&mut buffer)?;
        if &buffer[..len] != b"knock" {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(from)
    };
    let from = exchange().map_err(|error| format!("{STRANGER} to {mapped}: {error}"))?;
    if from.ip() != in_pref64(STRANGER) {
        return Err(format!(
            "the client saw {from} instead of {}",
            in_pref64(STRANGER)
        ));
    }
    Ok(format!("{STRANGER} to {mapped}"))
}

fn socket(namespace: Namespace, address: std::net::IpAddr) -> Result<UdpSocket, String> {
    let bind = || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_read_timeout(Some(WAIT))?;
        Ok(socket)
    };
    netns::within(namespace, bind)
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("no UDP socket on {address}: {error}"))
}

fn udp_mapping(socket: &UdpSocket) -> io::Result<SocketAddrV4> {
    socket.send_to(b"?", (in_pref64(SERVER), WHOAMI_PORT))?;
    let mut buffer = [0; 64];
    let (len, _) = socket.recv_from(&mut buffer)?;
    parse_mapping(&String::from_utf8_lossy(&buffer[..len]))
}

fn parse_mapping(text: &str) -> io::Result<SocketAddrV4> {
    text.trim()
        .parse()
        .map_err(|_| ErrorKind::InvalidData.into())
}

/// The same for TCP: the client listens on the port that its connection leaves from
/// (RFC 6146 section 3.5.2.2, an IPv4 SYN to an address in the BIB).
pub(super) fn tcp_into_mapping() -> Finding {
    netns::within(Namespace::Client, || in_runtime(tcp_through_mapping()))
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

fn in_runtime<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            tokio::time::timeout(2 * WAIT, work)
                .await
                .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
        })
}

async fn tcp_through_mapping() -> io::Result<String> {
    let outgoing = reusable()?;
    outgoing.bind((CLIENT, 0).into())?;
    let outgoing = outgoing
        .connect((in_pref64(SERVER), WHOAMI_PORT).into())
        .await?;
    let local = outgoing.local_addr()?;
    let mut outgoing = BufReader::new(outgoing);
    let mut line = String::new();
    outgoing.read_line(&mut line).await?;
    let mapped = parse_mapping(&line)?;

    let incoming = reusable()?;
    incoming.bind(local)?;
    let incoming = incoming.listen(1)?;
    // The stranger's connection is made on a thread in its own namespace.
    let stranger = std::thread::spawn(move || {
        netns::within(Namespace::Internet, || in_runtime(knock(STRANGER, mapped)))
    });
    let (mut stream, peer) = incoming.accept().await?;
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await?;
    stream.write_all(&buffer).await?;
    let knocked = tokio::task::spawn_blocking(|| stranger.join()).await?;
    knocked
        .map_err(|_| io::Error::other("the stranger panicked"))?
        .map_err(io::Error::other)??;
    Ok(format!("{peer} through {mapped}"))
}

fn reusable() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    Ok(socket)
}

async fn knock(from: Ipv4Addr, to: SocketAddrV4) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut stream = socket.connect(to.into()).await?;
    stream.write_all(b"knock").await?;
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await?;
    Ok(())
}

/// A run of iperf3 against its own server in the Internet; gives its report.
fn iperf(options: &str) -> Result<Value, String> {
    let server = tool::find("iperf3").map_err(|error| error.to_string())?;
    let args = ["-s", "-1", "-B", &SERVER.to_string()].map(Into::into);
    let mut server = Process::start_program("iperf3", Namespace::Internet, server.into(), &args)
        .map_err(|error| error.to_string())?;
    let listens = success_soon(|| {
        success(Namespace::Internet, "ss -Hltn sport = :5201", 5)
            .map(|text| !text.trim().is_empty())
    });
    let report = listens.and_then(|()| {
        let command = format!("iperf3 -6 -J -c {} {options}", in_pref64(SERVER));
        output(Namespace::Client, &command, 40)
    });
    server.stop();
    let report = report?;
    let json: Value = serde_json::from_str(&report.stdout).map_err(|_| report.reason())?;
    match json["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(json),
    }
}

fn success_soon(ready: impl Fn() -> Result<bool, String>) -> Result<(), String> {
    for _ in 0..50 {
        if ready()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err("iperf3's server does not listen".into())
}

pub(super) fn iperf_tcp(to_client: bool) -> Finding {
    let report = iperf(if to_client { "-t 2 -R" } else { "-t 2" })?;
    let received = &report["end"]["sum_received"];
    let octets = received["bytes"].as_u64().unwrap_or(0);
    if octets == 0 {
        return Err("nothing was received".into());
    }
    let megabits = received["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
    Ok(format!("{octets} octets, {megabits:.0} Mbit/s"))
}

/// So few that a socket's buffer takes what comes while a busy machine does not run the receiver for two seconds: loss
/// means a fault.
pub(super) fn iperf_udp(to_client: bool) -> Finding {
    let options = "-u -b 400K -l 1200 -t 3";
    let report = iperf(&format!("{options}{}", if to_client { " -R" } else { "" }))?;
    let sum = &report["end"]["sum"];
    let lost = sum["lost_packets"].as_u64().unwrap_or(u64::MAX);
    let sent = sum["packets"].as_u64().unwrap_or(0);
    // One in a hundred may be lost to a busy machine's socket buffers.
    if sent < 100 || lost > sent / 100 {
        return Err(format!("{lost} of {sent} datagrams were lost"));
    }
    Ok(format!("{lost} of {sent} datagrams lost"))
}

/// Every connection waits two seconds for its answer, so that all are open at once.
pub(super) fn parallel() -> Finding {
    let command = format!(
        "curl -sS --parallel --parallel-immediate --parallel-max {PARALLEL} --max-time 60 \
         -o /dev/null -w %{{http_code}}:%{{num_connects}}\\n http://v4only.lab.test/slow?n=[1-{PARALLEL}]"
    );
    let answer = client(&command, 90)?;
    let good = answer.lines().filter(|line| *line == "200:1").count();
    if good == PARALLEL {
        Ok(format!("{good} answers over {good} connections"))
    } else {
        Err(format!("{good} of {PARALLEL} connections were answered"))
    }
}

/// Both directions meet the narrow link: the upload needs the translated "packet too big", the
/// download the router's own "fragmentation needed" or a clamped MSS.
pub(super) fn narrow_transfer() -> Finding {
    // The client must learn the path MTU anew, from its own segments.
    client("ip -6 route flush cache", 10)?;
    let len = usize::try_from(NARROW_LEN).map_err(|error| error.to_string())?;
    let file = state::scratch("upload");
    state::write(&file, &"x".repeat(len)).map_err(|error| error.to_string())?;
    let url = "http://narrow.lab.test";
    let answer = client(
        &format!("curl -sS --max-time 60 -T {} {url}/upload", file.display()),
        70,
    )?;
    expect(&answer, &format!("received {NARROW_LEN} octets"))?;
    learned_mtu()?;
    let command = format!(
        "curl -sS --max-time 60 -o /dev/null -w %{{size_download}} {url}/bytes/{NARROW_LEN}"
    );
    let received = client(&command, 70)?;
    expect(&received, &NARROW_LEN.to_string())?;
    Ok(format!(
        "{NARROW_LEN} octets each way, to {}",
        in_pref64(NARROW)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_an_ipv4_transport_address() {
        assert_eq!(parse_mapping("192.0.2.1:1024\n").unwrap().port(), 1024);
        assert!(parse_mapping("[2001:db8::1]:1024").is_err());
    }
}
