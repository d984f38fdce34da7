"""What other people's programs say through gate64: ping, traceroute, curl and an FTP server, a STUN client and server."""

import re
import sys

from .network import Failed, wait_until
from .topology import CLAT6, EDGE4, GATE6, HOST4, HOST4_OTHER, POOL, PREFIX, STATIC_ECHO, in_prefix

LARGE = 65000
CLAT4 = "192.0.0.1"
FTP_PORT, STUN_PORT = 2121, 3478
FILE = bytes(range(256)) * 2000


def start_servers(net):
    """FTP and STUN on the IPv4 host; on the IPv6 host the CLAT through which an IPv4 program reaches them."""
    files = net.work / "ftp"
    files.mkdir()
    (files / "file").write_bytes(FILE)
    net.start("host4", net.work / "ftp.log", sys.executable, "-m", "pyftpdlib", "-i", HOST4, "-p", FTP_PORT, "-d", files)
    net.start("host4", net.work / "stun.log", "turnserver", "-n", "--stun-only", "--no-auth", "--no-tls", "--no-dtls", "--no-cli",
              "--no-software-attribute", "--log-file", "stdout", "--pidfile", net.work / "stun.pid", "--db", net.work / "stun.db",
              "--listening-ip", HOST4, "--listening-ip", HOST4_OTHER, "--listening-port", STUN_PORT,
              "--alt-listening-port", STUN_PORT + 1)
    (net.work / "clat").mkdir()
    (net.work / "clat.conf").write_text(
        f"tun-device clat\nipv4-addr 192.0.0.2\nipv6-addr {CLAT6[:-1]}2\nprefix {PREFIX}\nmap {CLAT4} {CLAT6}\n"
        f"data-dir {net.work / 'clat'}\n")
    net.run("host6", "tayga", "--mktun", "-c", net.work / "clat.conf")
    net.ip("host6", "link set clat up", f"address add {CLAT4}/32 dev clat", "-4 route add default dev clat",
           f"-6 route add {CLAT6}/128 dev clat")
    net.start("host6", net.work / "clat.log", "tayga", "--nodetach", "-c", net.work / "clat.conf")
    for port in (FTP_PORT, STUN_PORT):
        wait_until(f"a server listens on {port}", lambda: str(port) in net.run("host4", "ss", "-Hltun", f"sport = :{port}"))


def ping(net, host, *words):
    """Four, one by one: of several, ping waits for the last only twice as long as an answer took before."""
    for _ in range(4):
        said = net.run(host, "ping", "-n", "-c", 1, "-W", 5, *words, fails=True)
        if " 0% packet loss" not in said:
            raise Failed(said.strip().splitlines()[-1] if said.strip() else "ping says nothing")
    return said.strip().splitlines()[-1]


def large_ping6(net):
    return ping(net, "host6", "-6", "-s", LARGE, in_prefix(HOST4))


def large_ping4(net):
    """The static entry leads this identifier to the IPv6 host."""
    return ping(net, "host4", "-4", "-e", STATIC_ECHO, "-s", LARGE, POOL)


def traceroute(net, how):
    """Behind gate64 each hop shows as its Pref64 address (RFC 7915 section 5.2, RFC 6791)."""
    # One probe at a time: it is not waited for any shorter because a later one is answered.
    said = net.run("host6", "traceroute", "-6", how, "-n", "-q", 1, "-N", 1, "-w", 7, "-m", 8, in_prefix(HOST4), seconds=60)
    hops = [line.split()[1] for line in said.splitlines()[1:]]
    wanted = [GATE6, in_prefix(EDGE4), in_prefix(HOST4)]
    if hops[1:] != wanted:
        raise Failed(f"the hops are {hops} instead of a router, {wanted}")
    return " ".join(hops)


def ftp(net):
    """EPSV carries no address (RFC 2428), so that it needs no help in the gateway (RFC 6384 section 3)."""
    target = net.work / "downloaded"
    url = f"ftp://[{in_prefix(HOST4)}]:{FTP_PORT}/file"
    said = net.run("host6", "curl", "-sS", "-v", "-6", "--max-time", 20, "-o", target, url)
    if "EPSV" not in said or " PASV" in said:
        raise Failed("curl did not use EPSV, or not EPSV alone")
    if target.read_bytes() != FILE:
        raise Failed("other octets arrive")
    return f"{len(FILE)} octets"


def stun(net, option, verdict):
    """What the client says. It sends each datagram once and takes a late answer for none, so that it may ask again."""
    for _ in range(3):
        said = net.run("host6", "turnutils_natdiscovery", option, "-p", STUN_PORT, HOST4, seconds=60, fails=True)
        if verdict in said:
            return said
    raise Failed(f"the client says: {said.strip()}")


def stun_mapping(net):
    said = stun(net, "-m", "NAT with Endpoint Independent Mapping")
    seen = sorted(set(re.findall(r"UDP reflexive addr: (\S+)", said)))
    if len(seen) != 1 or not seen[0].startswith(f"{POOL}:"):
        raise Failed(f"the client was seen as {seen}")
    return f"seen as {seen[0]} at three addresses"


def stun_filtering(net, wanted):
    stun(net, "-f", f"NAT with {wanted} Filtering")
    return f"NAT with {wanted} Filtering"
