#!/usr/bin/env python3
"""gate64 share between real kernels and real programs, in namespaces: a client that has only SLAAC and what is advertised,
the host that shares its address, and an IPv4 Internet. Usage: test_share.py GATE64, as root."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = str(ROOT / ".cache/python/bin/python3")
TAG = f"g64s{os.getpid()}"
CLIENT, HOST, INTERNET = (f"{TAG}-{name}" for name in ("c", "h", "i"))
WORK = pathlib.Path(tempfile.mkdtemp(prefix="gate64-share-"))
SERVER, ADDRESS, OTHER_ADDRESS = "203.0.113.10", "192.0.2.5", "192.0.2.6"
LIMIT = 60  # seconds for what should take a few; nothing is judged by it
GOAL = 5  # seconds from link up to a page


# --- the Internet's servers, run as `test_share.py --serve` in its namespace

def name_of(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    return ".".join(labels).lower(), struct.unpack(">H", query[at + 1:at + 3])[0], at + 5


def dns_answer(query):
    """v4only.test has an A record, dual.test an AAAA record too, hop.test names the server as well."""
    name, kind, end = name_of(query)
    records = []
    if name in ("v4only.test", "dual.test", "hop.test") and kind == 1:
        records.append((1, socket.inet_aton(SERVER)))
    if name == "dual.test" and kind == 28:
        records.append((28, socket.inet_pton(socket.AF_INET6, "2001:db8:ffff::10")))
    known = name in ("v4only.test", "dual.test", "hop.test")
    head = query[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, len(records), 0, 0)
    body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data for kind, data in records)
    return head + query[12:end] + body


def serve():
    dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    dns.bind((SERVER, 53))
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind((SERVER, 7))
    web = socket.create_server((SERVER, 80), backlog=64)
    native = socket.create_server(("::", 80), family=socket.AF_INET6, backlog=64)
    tcp_echo = socket.create_server((SERVER, 7), backlog=64)

    def datagrams(sock, answer):
        while True:
            data, source = sock.recvfrom(4096)
            with contextlib.suppress(Exception):
                sock.sendto(answer(data), source)

    def page(connection, source):
        with connection:
            connection.recv(4096)
            body = f"the page, for {source[0]}:{source[1]}\n".encode()
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def echoing(connection, _source):
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    def accept(sock, work):
        while True:
            connection, source = sock.accept()
            threading.Thread(target=work, args=(connection, source), daemon=True).start()

    for target, args in ((datagrams, (dns, dns_answer)), (datagrams, (echo, bytes)), (accept, (tcp_echo, echoing)), (accept, (native, page))):
        threading.Thread(target=target, args=args, daemon=True).start()
    print("ready", flush=True)
    accept(web, page)


# --- helpers

def run(*command, namespace=None, check=True, timeout=LIMIT):
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    done = subprocess.run([*prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}: {done.stdout}")
    return done.stdout


def ip(namespace, line, check=True):
    """What the kernel changed while it was listed is listed again."""
    while "Dump was interrupted" in (said := run("ip", "-n", namespace, *line.split(), check=check)):
        pass
    return said


def until(what, condition, limit=LIMIT):
    """Seconds until `condition` holds. What it raises, as of a file that is not there yet, means not yet."""
    began = time.monotonic()
    why = None
    while time.monotonic() - began < limit:
        try:
            why = None
            if condition():
                return time.monotonic() - began
        except Exception as error:  # noqa: BLE001: told at the end
            why = error
        time.sleep(0.05)
    raise AssertionError(f"not within {limit} s: {what}" + (f": {why!r}" if why else ""))


def within(namespace, work):
    """Runs `work` in a thread that stands in the namespace."""
    result = []

    def thread():
        libc = __import__("ctypes").CDLL(None, use_errno=True)
        with open(f"/run/netns/{namespace}") as handle:
            assert libc.setns(handle.fileno(), 0x40000000) == 0
        result.append(work())
    one = threading.Thread(target=thread, daemon=True)
    one.start()
    one.join(LIMIT)
    assert result, "the thread has failed or takes too long"
    return result[0]


class Share:
    """A gate64 share that runs."""

    def __init__(self, gate64, *flags, downstream="lan", upstream="wan", name="one"):
        self.out = open(WORK / f"{name}.out", "ab")
        self.from_here = self.out.tell()
        command = ["ip", "netns", "exec", HOST, gate64, "share", "--upstream", upstream, "--downstream", downstream,
                   "--state", str(WORK / "state"), "--socket", str(WORK / f"{name}.sock"), "--dns", f"udp://{SERVER}", *flags]
        self.process = subprocess.Popen(command, stdout=self.out, stderr=self.out)

    def text(self):
        """What it said, and none before it of the same name."""
        return pathlib.Path(self.out.name).read_bytes()[self.from_here:].decode(errors="replace")

    def begins(self):
        """It takes packets, and a signal ends it in good order."""
        until("the share is ready", lambda: " ready " in self.text())

    def line(self):
        """How it is, once it is shown: what it logged since then stands behind it."""
        lines = [line for line in self.text().splitlines() if line.startswith(("serves", "does not serve"))]
        return lines[-1] if lines else ""

    def stop(self, how=signal.SIGINT):
        self.process.send_signal(how)
        code = self.process.wait(LIMIT)
        assert how == signal.SIGKILL or code == 0, f"exit code {code}\n{self.text()}"

    def ends_by_itself(self, code, says):
        """It ends with that exit code, and its last line says why."""
        found = self.process.wait(LIMIT)
        last = self.text().strip().splitlines()[-1]
        assert found == code and last.startswith("gate64: ") and says in last, f"exit code {found}: {self.text()}"


def state_of_host():
    """What a share may change, as it is now."""
    keys = [f"net.ipv6.conf.{one}.{key}" for one in ("all", "default", "lan", "wan", "lo")
            for key in ("forwarding", "accept_ra", "disable_ipv6", "proxy_ndp", "autoconf")]
    keys += ["net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_local_port_range", "net.ipv4.ip_forward"]
    addresses = json.loads(ip(HOST, "-j address"))
    links = [(one["ifname"], "UP" in one["flags"], "xdp" in one, sorted(a["local"] for a in one["addr_info"])) for one in addresses]
    routes = sorted(line.split(" expires")[0] for line in ip(HOST, "route").splitlines() + ip(HOST, "-6 route").splitlines())
    return {"sysctls": run("sysctl", *keys, namespace=HOST), "links": links, "routes": routes, "rules": ip(HOST, "-6 rule"),
            "proxies": ip(HOST, "-6 neigh show proxy"), "kept": [line.split(" lladdr")[0] for line in ip(HOST, "neigh").splitlines() if "managed" in line]}


def is_as_it_was(before, state=state_of_host):
    """The kernel itself may need a moment for links that came or went."""
    with contextlib.suppress(AssertionError):
        until("the host is as it was", lambda: state() == before, 20)
    after = state()
    assert after == before, f"the host is not as it was:\n{before}\n{after}"


def build():
    for namespace in (CLIENT, HOST, INTERNET):
        run("ip", "netns", "add", namespace)
        ip(namespace, "link set lo up")
    ip(HOST, f"link add name lan type veth peer name eth0 netns {CLIENT}")
    ip(HOST, f"link add name wan type veth peer name eth0 netns {INTERNET}")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1", namespace=INTERNET)
    ip(INTERNET, "address add 192.0.2.1/24 dev eth0")
    ip(INTERNET, f"address add {SERVER}/32 dev lo")
    ip(INTERNET, "address add 10.99.0.1/32 dev lo")
    ip(INTERNET, "link set eth0 up")
    ip(HOST, f"address add {ADDRESS}/24 dev wan")
    ip(HOST, "link set wan up")
    ip(HOST, "route add default via 192.0.2.1")
    pathlib.Path(f"/etc/netns/{CLIENT}").mkdir(parents=True)
    pathlib.Path(f"/etc/netns/{CLIENT}/resolv.conf").write_text("")
    servers = subprocess.Popen(["ip", "netns", "exec", INTERNET, sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    assert servers.stdout.readline() == "ready\n"
    # A link-local address comes some time after its link, and may be used when nobody else has been found to have it.
    for namespace, link in ((HOST, "wan"), (INTERNET, "eth0")):
        show = f"-6 address show dev {link} -tentative"
        until(f"{link} has a link-local address", lambda namespace=namespace, show=show: "inet6 fe80" in ip(namespace, show))
    return servers


def end_all(namespace, how):
    for pid in run("ip", "netns", "pids", namespace, check=False).split():
        with contextlib.suppress(ValueError, ProcessLookupError):
            os.kill(int(pid), how)


def tear_down():
    for namespace in (CLIENT, HOST, INTERNET):
        end_all(namespace, signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", namespace])
        shutil.rmtree(f"/etc/netns/{namespace}", ignore_errors=True)
    shutil.rmtree(WORK, ignore_errors=True)


def learn_resolver():
    """resolv.conf from RDNSS, as a host's daemon makes it."""
    whole = run("rdisc6", "-1", "-r", "1", "-w", "2000", "eth0", namespace=CLIENT, check=False)
    found = re.search(r"Recursive DNS server\s*: (\S+)", whole)
    if not found:
        return False
    pathlib.Path(f"/etc/netns/{CLIENT}/resolv.conf").write_text(f"nameserver {found[1]}\noptions timeout:1 attempts:5\n")
    return True


def fetch(name, seconds=LIMIT):
    return run("curl", "-6", "-s", "-m", str(seconds), f"http://{name}/", namespace=CLIENT, timeout=seconds + 5)


def tried(name):
    """As `fetch`, for what is tried again."""
    return fetch(name, 2)


def fetch_or_not(name):
    try:
        return tried(name)
    except (AssertionError, subprocess.TimeoutExpired):
        return ""


def page_after_link_up(name="v4only.test"):
    """Seconds from a link that comes up to a page fetched by name."""
    began = time.monotonic()
    ip(CLIENT, "link set eth0 up")
    until("the client learns a resolver", learn_resolver)
    until("a page", lambda: "the page" in tried(name))
    return time.monotonic() - began


def echoed(octets=1 << 18, chunk=1 << 15):
    """Seconds for octets to an IPv4 server and back over TCP, in chunks that the sender's kernel hands over whole."""
    def work():
        with socket.create_connection((f"64:ff9b::{SERVER}", 7), LIMIT / 2) as one:
            for _ in range(octets // chunk):
                one.sendall(bytes(chunk))
                back = 0
                while back < chunk:
                    data = one.recv(chunk)
                    assert data, "the connection ends early"
                    back += len(data)
        return True
    began = time.monotonic()
    assert within(CLIENT, work) is True
    return time.monotonic() - began


def report(what, seconds, goal=GOAL):
    print(f"  {seconds:5.2f} s  {what}" + ("" if seconds < goal else f"  (the goal is {goal} s)"), flush=True)


# --- the tests, each on a host that is as it was

def test_from_link_up_to_a_page(gate64):
    share = Share(gate64, "--search", "lab.test", "--ra-interval-max", "4s")
    share.begins()
    report("from the client's link up to a page by name", page_after_link_up())
    text = fetch("v4only.test")
    port = int(re.search(rf"{ADDRESS}:(\d+)", text)[1])
    assert 61000 <= port <= 65535, text
    # Without native IPv6 a name's real AAAA would lead nowhere.
    assert ADDRESS in fetch("dual.test")
    assert "the page" in fetch("[64:ff9b::203.0.113.10]")
    assert "1 received" in run("ping", "-c1", "-W10", "64:ff9b::10.99.0.1", namespace=CLIENT), "private destinations"
    advertisements()
    no_route_at_once()
    traceroutes()
    stateless_dhcpv6()
    share.stop()


def advertisements():
    """A captured run, at 45 times the default's pace: 12 s are a lifetime."""
    seconds = int(os.environ.get("GATE64_LIFETIMES_SECONDS", "40"))
    capture = WORK / "ra.pcap"
    routes = subprocess.Popen(["ip", "-n", CLIENT, "-6", "monitor", "route"], stdout=subprocess.PIPE, text=True)
    radvdump = subprocess.Popen(["ip", "netns", "exec", CLIENT, "timeout", str(seconds), "radvdump"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    tcpdump = subprocess.Popen(["ip", "netns", "exec", CLIENT, "tcpdump", "-U", "-i", "eth0", "-w", str(capture), "icmp6[0] >= 133 and icmp6[0] <= 136"],
                               stderr=subprocess.PIPE, text=True)
    assert "listening" in tcpdump.stderr.readline()
    router = re.search(r"default via (\S+)", ip(CLIENT, "-6 route"))[1]
    began = time.monotonic()
    for address in SOLICITORS:
        ip(CLIENT, f"address add {address}/128 dev eth0 nodad")
    run(PYTHON, "-c", SCAPY_SOLICIT, *SOLICITORS, namespace=CLIENT)
    while time.monotonic() - began < seconds:
        # A host that solicits its router's link-local address keeps its default route only if the answer has the router flag.
        ip(CLIENT, "-6 neigh flush dev eth0", check=False)
        assert "1 received" in run("ping", "-c1", "-W10", f"{router}%eth0", namespace=CLIENT)
        assert "default via" in ip(CLIENT, "-6 route"), "the default route is lost"
        time.sleep(1)
    for one in (tcpdump, radvdump, routes):
        one.terminate()
    tcpdump.wait(LIMIT)
    lost = [line for line in routes.communicate(timeout=LIMIT)[0].splitlines() if line.startswith("Deleted default")]
    assert not lost, lost
    dumped = radvdump.communicate(timeout=LIMIT)[0]
    for part in ("AdvSendAdvert on", "prefix fd", "RDNSS fd", "DNSSL lab.test", "AdvOtherConfigFlag on", "AdvManagedFlag off", "AdvLinkMTU 1500"):
        assert part in dumped, f"radvdump does not say {part!r}:\n{dumped}"
    seen = run("tshark", "-r", str(capture), "-V", "-Y", "icmpv6.type == 134")
    for part in ("PREF64 Option", "64:ff9b::", "Recursive DNS Server", "DNS Search List", "Hop Limit: 255", "[Checksum Status: Good]"):
        assert part in seen, f"tshark does not see {part!r}:\n{seen[:4000]}"
    assert "Malformed" not in seen, seen
    judged = run(PYTHON, "-c", SCAPY_JUDGE, str(capture), router, *SOLICITORS)
    print(f"  {judged.strip()}, and the default route never lost", flush=True)


# Addresses that solicit for this test alone: what the client's kernel and rdisc6 have asked for may be answered at any time. Each does so
# once, since solicitations of one host that wait together have one answer.
SOLICITORS = ("fe80::51:1", "fe80::51:2")

SCAPY_SOLICIT = """
# Solicitations of every kind of RFC 4861 section 6.1.1, and of invalid ones that are to be ignored.
import sys, time
from scapy.all import Ether, IPv6, ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, get_if_hwaddr, sendp
mac = get_if_hwaddr("eth0")
one, other = sys.argv[1:]
def solicit(source, options, hlim=255, code=0):
    rs = Ether(src=mac, dst="33:33:00:00:00:02") / IPv6(src=source, dst="ff02::2", hlim=hlim) / ICMPv6ND_RS(code=code, res=source != "::" and hlim == 255 and code == 0)
    sendp(rs / ICMPv6NDOptSrcLLAddr(lladdr=mac) if options else rs, iface="eth0", verbose=False)
for source, options in ((one, True), (other, False), ("::", False)):
    solicit(source, options)
    time.sleep(1)
for source, options, hlim, code in ((one, True, 64, 0), (other, True, 255, 1), ("::", True, 255, 0)):
    solicit(source, options, hlim, code)
for _ in range(50):
    solicit("::", False)
    time.sleep(0.01)
"""


SCAPY_JUDGE = """
import sys
from scapy.all import rdpcap, IPv6, ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6NDOptPREF64, ICMPv6NDOptPrefixInfo, ICMPv6NDOptRDNSS, ICMPv6NDOptRouteInfo
router, *solicitors = sys.argv[2:]
all_nodes, asked, owed, delays, flags = [], {}, set(), [], []
for packet in rdpcap(sys.argv[1]):
    now = float(packet.time)
    # Only solicitations with an address, marked so by their sender, get an answer of their own.
    if ICMPv6ND_RS in packet and packet[ICMPv6ND_RS].res:
        asked[packet[IPv6].src] = now
        owed.add(packet[IPv6].src)
    if ICMPv6ND_NA in packet and packet[IPv6].src == router:
        flags.append(packet[ICMPv6ND_NA].R)
    if ICMPv6ND_RA in packet:
        ra, pref64 = packet[ICMPv6ND_RA], packet[ICMPv6NDOptPREF64]
        assert packet[IPv6].hlim == 255 and packet[IPv6].src.startswith("fe80:")
        # RFC 4861 section 6.2.1: 3 x 4 s; RFC 8781 section 4.1: rounded up to units of 8 s; /96.
        assert (ra.routerlifetime, pref64.scaledlifetime, pref64.plc) == (12, 2, 0), packet.show(dump=True)
        assert pref64.prefix.startswith("64:ff9b"), pref64.prefix
        assert packet[ICMPv6NDOptRDNSS].lifetime == 12 and packet[ICMPv6NDOptPrefixInfo].prefixlen == 64
        assert packet[ICMPv6NDOptRouteInfo].rtlifetime == 12
        to = packet[IPv6].dst
        if to == "ff02::1":
            all_nodes.append(now)
            delays += [now - since for since in asked.values()]
            asked.clear()
        elif to in solicitors:
            assert to in owed, f"an answer that nobody has asked for: {to}"
            owed.remove(to)
            # One to all nodes may have gone before it was read.
            delays += [now - asked.pop(to)] if to in asked else []
gaps = [b - a for a, b in zip(all_nodes, all_nodes[1:])]
# RFC 4861 section 6.2.6 and MaxRtrAdvInterval have bounds of 0.5 and 4 s, which share/ra/schedule.rs is tested for: a machine that
# is busy is late. Here each is answered, and no lifetime runs out.
assert len(delays) >= 2 and max(delays) < 12, delays
# MIN_DELAY_BETWEEN_RAS, though 50 solicitations came at once: 3 s where they are sent, of which one that is late takes some.
assert len(gaps) >= 3 and min(gaps) >= 2 and max(gaps) < 12, gaps
assert flags and all(flags), f"neighbour advertisements without the router flag: {flags}"
print(f"scapy: {len(delays)} solicitations answered in {min(delays):.2f} to {max(delays):.2f} s; {len(all_nodes)} to all nodes, every {min(gaps):.1f} to {max(gaps):.1f} s, with lifetimes of 12 s; {len(flags)} times the router's link-local address was solicited")
"""


def no_route_at_once():
    began = time.monotonic()
    said = run("ping", "-c1", "-W5", "2001:db8:ffff::99", namespace=CLIENT, check=False)
    assert "No route" in said, said
    report("\"no route\" for a native destination", time.monotonic() - began, 1)


def traceroutes():
    literal = run("traceroute", "-6", "-n", "-q1", "-w10", "-m4", "64:ff9b::203.0.113.10", namespace=CLIENT)
    by_name = run("traceroute", "-6", "-n", "-q1", "-w10", "-m4", "hop.test", namespace=CLIENT)
    for text in (literal, by_name):
        assert re.search(r"^ 1  fd", text, re.MULTILINE) and re.search(r"^ 2  64:ff9b::cb00:710a", text, re.MULTILINE), text


def stateless_dhcpv6():
    script = WORK / "dhclient-script"
    script.write_text(f"#!/bin/sh\nenv >>{WORK}/dhclient.env\n")
    script.chmod(0o755)
    run("dhclient", "-6", "-S", "-1", "-sf", str(script), "-lf", f"{WORK}/leases", "-pf", f"{WORK}/dhclient.pid", "eth0", namespace=CLIENT)
    told = (WORK / "dhclient.env").read_text()
    assert re.search(r"new_dhcp6_name_servers=fd\S+::1", told) and "new_dhcp6_domain_search=lab.test" in told, told


def test_kind_test_leads_every_name_through_nat64(gate64):
    share = Share(gate64, "--test")
    share.begins()
    report("kind test: from link up to a page of a name with a real AAAA", page_after_link_up("dual.test"))
    assert ADDRESS in fetch("dual.test")
    no_route_at_once()
    share.stop()
    # By the last advertisement: its lifetime is of nine minutes here.
    until("the client's default route goes", lambda: "default" not in ip(CLIENT, "-6 route"))


class Talk:
    """The host's own conversations: TCP and UDP out, TCP in, on the shared address."""

    def __init__(self):
        self.rounds, self.lost, self.unanswered, self.ends = 0, [], [], False
        self.tcp = within(HOST, lambda: socket.create_connection((SERVER, 7), 5))
        self.udp = within(HOST, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.listener = within(HOST, lambda: socket.create_server(("0.0.0.0", 8080)))
        self.outside = within(INTERNET, lambda: socket.create_connection((ADDRESS, 8080), 5))
        self.inside = self.listener.accept()[0]
        self.udp.connect((SERVER, 7))
        self.thread = threading.Thread(target=self.go, daemon=True)
        self.thread.start()

    def goes_on(self):
        until("the host's conversations go on", lambda end=self.rounds + 20: self.rounds > end)

    def go(self):
        pairs = [("TCP out", self.tcp, self.tcp), ("UDP out", self.udp, self.udp), ("TCP in", self.outside, self.inside)]
        for _, a, b in pairs:
            a.settimeout(LIMIT)
            b.settimeout(LIMIT)
        self.udp.settimeout(5)
        while not self.ends:
            self.rounds += 1
            message = b"%08d" % self.rounds
            for name, sender, receiver in pairs:
                try:
                    sender.send(message)
                    while (heard := receiver.recv(64)) != message:
                        # What was not waited for any longer may come late.
                        if receiver is not self.udp or heard > message:
                            self.lost.append((name, self.rounds))
                            break
                except OSError as error:
                    if receiver is self.udp and isinstance(error, TimeoutError):
                        self.unanswered.append(self.rounds)
                    else:
                        self.lost.append((name, self.rounds, str(error)))
            time.sleep(0.01)

    def end(self):
        self.ends = True
        self.thread.join()
        for one in (self.tcp, self.udp, self.listener, self.outside, self.inside):
            one.close()


def test_the_hosts_own_connections(gate64):
    talk = Talk()
    talk.goes_on()
    share = Share(gate64)
    page_after_link_up()
    shares = talk.rounds
    talk.goes_on()
    for _ in range(5):
        fetch("v4only.test")
    # A port of the pool cannot be had by anyone else, nor is it given to the host's own connections.
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        taken = within(HOST, lambda kind=kind: bind_error(kind, 62_000))
        assert taken == 98, f"binding port 62000: {taken}"
    talk.goes_on()
    ends = talk.rounds
    share.stop()
    assert within(HOST, lambda: bind_error(socket.SOCK_STREAM, 62_000)) == 0
    talk.goes_on()
    talk.end()
    # Of UDP the kernel drops what is on its way through a veth just when a program is attached or detached there; nothing else is lost.
    meanwhile = [number for number in talk.unanswered if shares < number < ends]
    assert not talk.lost and not meanwhile and len(talk.unanswered) <= 2, (talk.rounds, talk.lost[:5], talk.unanswered, shares, ends)
    print(f"  the host's own TCP and UDP, both ways: {3 * talk.rounds} messages before, during and after, {len(talk.unanswered)} lost", flush=True)


def bind_error(kind, port):
    with socket.socket(socket.AF_INET, kind) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return 0 if not (error := catch(lambda: one.bind(("0.0.0.0", port)))) else error.errno


def catch(work):
    try:
        work()
    except OSError as error:
        return error
    return None


def test_the_upstream_changes(gate64):
    share = Share(gate64)
    page_after_link_up()
    began = time.monotonic()
    ip(HOST, f"address del {ADDRESS}/24 dev wan")
    ip(HOST, f"address add {OTHER_ADDRESS}/24 dev wan")
    ip(HOST, "route add default via 192.0.2.1")
    until("a page from the new address", lambda: OTHER_ADDRESS in tried("v4only.test"))
    report("from a new upstream address to a page", time.monotonic() - began)
    ip(INTERNET, "link set eth0 down")
    until("the default route goes", lambda: "default" not in ip(CLIENT, "-6 route"))
    began = time.monotonic()
    ip(INTERNET, "link set eth0 up")
    until("a page after the upstream is back", lambda: "the page" in tried("v4only.test"))
    report("from the upstream's link up to a page", time.monotonic() - began)
    ip(HOST, f"address del {OTHER_ADDRESS}/24 dev wan")
    until("the line says why", lambda: "wan has no IPv4 address" in share.line())
    ip(HOST, f"address add {ADDRESS}/24 dev wan")
    ip(HOST, "route add default via 192.0.2.1")
    until("a page from the first address", lambda: ADDRESS in tried("v4only.test"))
    share.stop()


@contextlib.contextmanager
def native_upstream():
    """The upstream has IPv6 as well: 2001:db8:1::/64, with a server behind it."""
    ip(INTERNET, "address add 2001:db8:1::1/64 dev eth0 nodad")
    ip(INTERNET, "address add 2001:db8:ffff::10/128 dev lo nodad")
    ip(HOST, "address add 2001:db8:1::5/64 dev wan nodad")
    ip(HOST, "-6 route add default via 2001:db8:1::1")
    try:
        yield
    finally:
        ip(HOST, "-6 route del default via 2001:db8:1::1", check=False)
        ip(HOST, "address del 2001:db8:1::5/64 dev wan", check=False)
        ip(INTERNET, "address del 2001:db8:1::1/64 dev eth0", check=False)
        ip(INTERNET, "address del 2001:db8:ffff::10/128 dev lo", check=False)


def native_and_translated(share, prefix):
    report("native and NAT64: from link up to a page", page_after_link_up())
    assert ADDRESS in fetch("v4only.test")
    report("from there to a page over native IPv6", until("a native page", lambda: f"for {prefix}" in tried("dual.test")))
    share.stop()


def test_native_ipv6_in_the_upstreams_own_64(gate64):
    with native_upstream():
        before = state_of_host()
        share = Share(gate64)
        share.begins()
        native_and_translated(share, "2001:db8:1:")
        is_as_it_was(before)
        # The same after a kill: client routes and proxy entries are in the record.
        share = Share(gate64, name="killed")
        until("a native page", lambda: learn_resolver() and "for 2001:db8:1:" in tried("dual.test"))
        share.stop(signal.SIGKILL)
        assert "2001:db8:1:" in state_of_host()["proxies"]
        share = Share(gate64, name="last")
        share.begins()
        share.stop()
        is_as_it_was(before)


def test_native_ipv6_from_a_routed_prefix(gate64):
    with native_upstream():
        ip(INTERNET, "-6 route add 2001:db8:2::/64 via 2001:db8:1::5")
        share = Share(gate64, "--prefix", "2001:db8:2::/64")
        share.begins()
        native_and_translated(share, "2001:db8:2:")


class Kea:
    """A DHCPv6 server on the upstream's link that delegates one prefix, and a route to whoever has it."""

    def __init__(self, prefix, length=56, delegated=None, lifetime=4000):
        self.prefix, self.length = prefix, length
        pool = {"prefix": prefix, "prefix-len": length, "delegated-len": delegated or length}
        text = {"Dhcp6": {
            "interfaces-config": {"interfaces": ["eth0"]},
            "lease-database": {"type": "memfile", "persist": False},
            "server-id": {"type": "EN", "enterprise-id": 32473, "identifier": prefix.encode().hex(), "persist": False},
            "preferred-lifetime": lifetime * 3 // 4, "valid-lifetime": lifetime, "renew-timer": lifetime // 4, "rebind-timer": lifetime // 2,
            "subnet6": [{"subnet": "2001:db8:1::/64", "interface": "eth0", "pd-pools": [pool]}],
            "loggers": [{"name": "kea-dhcp6", "severity": "INFO", "output_options": [{"output": str(WORK / "kea.log")}]}]}}
        (WORK / "kea.json").write_text(json.dumps(text))
        environment = {**os.environ, "KEA_PIDFILE_DIR": str(WORK), "KEA_LOCKFILE_DIR": str(WORK)}
        command = ["ip", "netns", "exec", INTERNET, "kea-dhcp6", "-c", str(WORK / "kea.json")]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("the server has started", lambda: "DHCP6_STARTED" in self.log())
        via = re.search(r"inet6 (fe80\S+)/64", ip(HOST, "-6 address show dev wan"))[1]
        ip(INTERNET, f"-6 route replace {prefix}/{length} via {via} dev eth0")

    @staticmethod
    def log():
        path = WORK / "kea.log"
        return path.read_text() if path.exists() else ""

    def stop(self):
        self.process.terminate()
        self.process.wait(LIMIT)
        (WORK / "kea.log").unlink(missing_ok=True)
        ip(INTERNET, f"-6 route del {self.prefix}/{self.length}", check=False)


@contextlib.contextmanager
def delegating_upstream():
    """The upstream's link has a default route but no prefix of its own, as many access networks."""
    ip(INTERNET, "address add fe80::1/64 dev eth0 nodad")
    ip(INTERNET, "address add 2001:db8:ffff::10/128 dev lo nodad")
    run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", namespace=INTERNET)
    ip(HOST, "-6 route add default via fe80::1 dev wan")
    try:
        yield
    finally:
        ip(HOST, "-6 route del default via fe80::1 dev wan", check=False)
        run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0", namespace=INTERNET)
        ip(INTERNET, "address del fe80::1/64 dev eth0", check=False)
        ip(INTERNET, "address del 2001:db8:ffff::10/128 dev lo", check=False)


def client_addresses():
    """The client's addresses of prefixes: whether each is preferred."""
    shown = json.loads(ip(CLIENT, "-j -6 address show dev eth0 scope global"))
    return {one["local"]: not one.get("deprecated") for link in shown for one in link.get("addr_info", []) if one}


def has_preferred(prefix):
    return any(address.startswith(prefix) and preferred for address, preferred in client_addresses().items())


def test_a_delegated_prefix(gate64):
    """By Kea: it comes, is renewed, changes, goes and comes; a kill leaves it to the next start; the end gives it back."""
    with delegating_upstream():
        before = state_of_host()
        share = Share(gate64, "--prefix", "delegated")
        page_after_link_up()
        assert ADDRESS in fetch("dual.test"), "without a prefix there is only NAT64"
        until("the line says why", lambda: "no DHCPv6 server on wan answers" in share.text())
        server = Kea("2001:db8:42::", lifetime=24)
        began = time.monotonic()
        until("a native page", lambda: "for 2001:db8:42:" in tried("dual.test"))
        report("from a server that delegates to a page over native IPv6", time.monotonic() - began, 20)
        assert ADDRESS in fetch("v4only.test")
        assert "No route" in run("ping", "-c1", "-W5", "2001:db8:42:9::9", namespace=CLIENT, check=False), "what nobody has of the prefix"
        until("it is renewed", lambda: "DHCP6_PD_LEASE_RENEW" in server.log())
        assert "for 2001:db8:42:" in fetch("dual.test")
        server.stop()
        server = Kea("2001:db8:43::")
        began = time.monotonic()
        # When the lease is over, or before; the second server is asked for another one some time after it has begun.
        until("a page from the other prefix", lambda: "for 2001:db8:43:" in tried("dual.test"), 2 * LIMIT)
        report("another server with another prefix: until a page from there", time.monotonic() - began, 40)
        assert has_preferred("2001:db8:43:") and not has_preferred("2001:db8:42:"), client_addresses()
        share.stop(signal.SIGKILL)
        assert "2001:db8:43::1" in str(state_of_host()["links"])
        share = Share(gate64, "--prefix", "delegated", name="again")
        until("the same prefix is used again", lambda: "2001:db8:43::/64" in share.text())
        until("a native page", lambda: "for 2001:db8:43:" in tried("dual.test"))
        share.stop()
        # It does not wait long for a server that is slow to read it.
        until("the prefix is given back", lambda: "DHCP6_RELEASE_PD" in server.log())
        server.stop()
        is_as_it_was(before)


def test_a_delegated_prefix_that_is_no_use(gate64):
    with delegating_upstream():
        server = Kea("2001:db8:44::", 64, delegated=72)
        share = Share(gate64, "--prefix", "delegated")
        until("the line says so", lambda: "delegates a /72 at most" in share.text())
        page_after_link_up()
        assert ADDRESS in fetch("dual.test") and not has_preferred("2001:db8:44:")
        share.stop()
        server.stop()


def test_the_upstream_gains_and_loses_ipv6(gate64):
    """The network is chosen anew while it runs; what is left at the end is nothing."""
    share = Share(gate64)
    page_after_link_up()
    assert ADDRESS in fetch("dual.test")
    with native_upstream():
        began = time.monotonic()
        until("a native page", lambda: learn_resolver() and "for 2001:db8:1:" in tried("dual.test"))
        report("from the upstream's IPv6 to a page over native IPv6", time.monotonic() - began, 20)
        assert ADDRESS in fetch("v4only.test")
    began = time.monotonic()
    until("a translated page", lambda: ADDRESS in tried("dual.test"))
    report("from the loss of the upstream's IPv6 to a page of the same name by NAT64", time.monotonic() - began, 20)
    share.stop()


def begin_and_end_at_once(gate64):
    """Two shares change the same kernel parameters at the same moment, and all is put back each time."""
    before = state_of_host()
    for round_ in range(5):
        shares = [Share(gate64, name=f"first-{round_}"), Share(gate64, downstream="lan2", upstream="wan2", name=f"second-{round_}")]
        for share in shares:
            share.begins()
        for share in shares:
            share.process.send_signal(signal.SIGINT)
        for share in shares:
            assert share.process.wait(LIMIT) == 0, share.text()
        is_as_it_was(before)


def test_two_shares_at_once(gate64):
    """Each with an upstream and a downstream of its own. One ends, the other one's network does not notice."""
    other = f"{TAG}-d"
    run("ip", "netns", "add", other)
    try:
        ip(HOST, f"link add name lan2 type veth peer name eth0 netns {other}")
        ip(HOST, f"link add name wan2 type veth peer name eth1 netns {INTERNET}")
        ip(INTERNET, "address add 192.0.3.1/24 dev eth1")
        ip(INTERNET, "link set eth1 up")
        ip(HOST, "address add 192.0.3.5/24 dev wan2")
        ip(HOST, "link set wan2 up")
        ip(HOST, "route add default via 192.0.3.1 dev wan2 metric 900")
        one, two = Share(gate64), Share(gate64, downstream="lan2", upstream="wan2", name="two")
        one.begins()
        two.begins()
        Share(gate64, downstream="lan2", name="three").ends_by_itself(1, "another gate64 shares to lan2 already")
        ip(HOST, "link add name lan3 type veth peer name lan3p")
        Share(gate64, downstream="lan3", name="four").ends_by_itself(1, "another gate64 shares wan already (wan to lan)")
        ip(HOST, "link del lan3")
        page_after_link_up()
        ip(other, "link set eth0 up")
        literal = f"http://[64:ff9b::{SERVER}]/"
        page = lambda seconds: run("curl", "-6", "-s", "-m", str(seconds), literal, namespace=other, timeout=seconds + 5)
        until("a page by the other share", lambda: "192.0.3.5" in page(2))
        one.stop()
        assert "192.0.3.5" in page(LIMIT)
        assert "default" in ip(other, "-6 route")
        two.stop()
        begin_and_end_at_once(gate64)
    finally:
        ip(HOST, "link del lan2", check=False)
        ip(HOST, "link del wan2", check=False)
        run("ip", "netns", "del", other)


@contextlib.contextmanager
def bridged():
    """`lan` is a port of the bridge `br0`; another router is behind a second port."""
    router = f"{TAG}-r"
    run("ip", "netns", "add", router)
    try:
        ip(HOST, "link add br0 type bridge mcast_snooping 0")
        ip(HOST, f"link add name lan2 type veth peer name eth0 netns {router}")
        for port in ("lan", "lan2"):
            ip(HOST, f"link set {port} up master br0")
        run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", namespace=router)
        ip(router, "link set eth0 up")
        yield router
    finally:
        ip(HOST, "link set lan nomaster down", check=False)
        ip(HOST, "link del br0", check=False)
        ip(HOST, "link del lan2", check=False)
        run("ip", "netns", "del", router)


def test_over_a_bridge(gate64):
    def bridge():
        state = state_of_host()
        return {**state, "links": [one for one in state["links"] if one[0] == "br0"], "routes": [one for one in state["routes"] if "br0" in one]}
    with bridged():
        before = bridge()
        share = Share(gate64, downstream="br0")
        report("over a bridge: from link up to a page", page_after_link_up())
        # Super-frames of a peer on the same machine: see docs/src/operator/share.md.
        run("ethtool", "-K", "eth0", "tso", "off", "gso", "off", namespace=CLIENT)
        report("256 KiB to a server and back", echoed())
        share.stop()
        run("ethtool", "-K", "eth0", "tso", "on", "gso", "on", namespace=CLIENT)
        is_as_it_was(before, bridge)


def test_a_second_router(gate64):
    """It has a prefix and a resolver of its own and no way to IPv4. Clients that take routes from advertisements do not notice it;
    to those that do not, it is in the way with a higher preference until it goes."""
    with bridged() as router:
        run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=128", namespace=CLIENT)
        share = Share(gate64, downstream="br0")
        page_after_link_up()
        for what, preference, leaves in (("the same preference", 0, True), ("a higher preference", 1, True), ("a higher preference", 1, False)):
            told = len(share.text())
            advertise_from(router, preference, 1800)
            until("the client has two default routes", lambda: ip(CLIENT, "-6 route show default").count("via fe80") > 1)
            until("the share tells of it", lambda told=told: "router lifetime 1800 s" in share.text()[told:])
            says = "start with --preference high, or lower its preference" if preference else "may use either router"
            until("the share warns of it", lambda told=told, says=says: says in share.text()[told:])
            warns = bool(preference)
            until("the line tells who is in the way", lambda warns=warns: share.line().startswith("serves, but hosts prefer the router fe80:") == warns)
            began = time.monotonic()
            until("a page beside it", lambda: "the page" in tried("v4only.test"))
            report(f"a second router with {what}: until a page", time.monotonic() - began)
            if leaves:
                told_beside = share.text()[told:]
                assert warns or "hosts prefer" not in told_beside, told_beside
                advertise_from(router, preference, 0)
                until("the share tells that it leaves", lambda told=told: "router lifetime 0 s" in share.text()[told:])
            else:
                run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=0", namespace=CLIENT)
                # RFC 4861's 15 to 45 s in which a neighbour is not doubted would be spent on nothing here.
                run("sysctl", "-qw", "net.ipv6.neigh.eth0.base_reachable_time_ms=2000", namespace=CLIENT)
                ip(CLIENT, "-6 route del 64:ff9b::/96")
                theirs = re.search(r"inet6 (fe80\S+)/64", ip(router, "-6 address show dev eth0"))[1]
                until("the other router is in the way", lambda theirs=theirs: f"via {theirs} " in ip(CLIENT, f"-6 route get 64:ff9b::{SERVER}"))
                assert "the page" not in fetch_or_not("v4only.test")
                ip(router, "link set eth0 down")
            began = time.monotonic()
            until("a page without it", lambda: "the page" in tried("v4only.test"))
            report(f"it goes {'with a last advertisement' if leaves else 'without a word, the client without routes'}: until a page", time.monotonic() - began, 20)
            if leaves:
                until("nothing is in the way", lambda: share.line().startswith("serves · "))
        run("sysctl", "-qw", "net.ipv6.neigh.eth0.base_reachable_time_ms=30000", namespace=CLIENT)
        share.stop()


def advertise_from(router, preference, lifetime):
    run(PYTHON, "-c", SCAPY_ROUTER, str(preference), str(lifetime), namespace=router)


SCAPY_ROUTER = """
import sys
from scapy.all import Ether, IPv6, ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, ICMPv6NDOptRDNSS, get_if_hwaddr, sendp
preference, lifetime = int(sys.argv[1]), int(sys.argv[2])
with open("/proc/net/if_inet6") as table:
    octets = next(line.split()[0] for line in table if line.startswith("fe80") and line.split()[-1] == "eth0")
source = ":".join(octets[at:at + 4] for at in range(0, 32, 4))
ra = IPv6(src=source, dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=lifetime, prf=preference)
ra /= ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64, validlifetime=7200, preferredlifetime=lifetime)
ra /= ICMPv6NDOptRDNSS(dns=["2001:db8:bad::53"], lifetime=lifetime)
sendp(Ether(src=get_if_hwaddr("eth0"), dst="33:33:00:00:00:01") / ra, iface="eth0", verbose=False)
"""


def test_dhcpv4_option_108(gate64):
    share = Share(gate64, "--dhcpv4-option-108", "30m")
    page_after_link_up()
    print(f"  {run(PYTHON, '-c', SCAPY_DHCP, namespace=CLIENT).strip()}", flush=True)
    share.stop()


SCAPY_DHCP = """
from scapy.all import Ether, IP, UDP, BOOTP, DHCP, AsyncSniffer, sendp
import threading
def discover(asked, xid, seconds):
    listens, answered, offers = threading.Event(), threading.Event(), []
    def seen(packet):
        if BOOTP in packet and packet[BOOTP].op == 2:
            offers.append(packet)
            answered.set()
    sniffer = AsyncSniffer(iface="eth0", filter="udp and port 68", prn=seen, started_callback=listens.set)
    sniffer.start()
    assert listens.wait(30), "the capture does not start"
    mac = bytes.fromhex("020000000c11")
    sendp(Ether(src="02:00:00:00:0c:11", dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
          / BOOTP(chaddr=mac, xid=xid, flags=0x8000) / DHCP(options=[("message-type", "discover"), ("param_req_list", asked), "end"]), iface="eth0", verbose=False)
    answered.wait(seconds)
    sniffer.stop()
    return offers
offers = discover([1, 3, 108], 7, 30)
assert len(offers) == 1, offers
offer = offers[0]
octets = bytes(offer[UDP].payload)
assert bytes([108, 4, 0, 0, 7, 8]) in octets, octets[236:]
assert offer[BOOTP].yiaddr == "0.0.0.0" and offer[BOOTP].xid == 7
assert ("message-type", 2) in offer[DHCP].options, offer[DHCP].options
assert discover([1, 3], 8, 2) == []
print("option 108 offers to do without IPv4 for 1800 s; who does not ask for it gets no answer")
"""


def test_killed_at_any_moment(gate64):
    before = state_of_host()
    moments = [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5, None]
    changed = 0
    for moment in moments:
        share = Share(gate64)
        if moment:
            time.sleep(moment)
        else:
            share.begins()
        share.stop(signal.SIGKILL)
        changed += state_of_host() != before
    # Once more with traffic: the kernel keeps neighbours fresh for a gateway that is gone.
    share = Share(gate64, name="busy")
    page_after_link_up()
    share.stop(signal.SIGKILL)
    assert state_of_host()["kept"], "no neighbour is kept: there is nothing to test"
    share = Share(gate64, name="last")
    share.begins()
    assert "undid what a killed gate64 had left" in share.text(), share.text()
    share.stop()
    is_as_it_was(before)
    assert changed > 0, "no kill has left anything"
    print(f"  killed at {len(moments)} moments, {changed} times with changes left: the next end puts all back", flush=True)


def test_464xlat(gate64):
    """An IPv4-only program in the IPv6-only network, by a CLAT: tayga with the prefix that was advertised."""
    # tayga refuses documentation addresses by the well-known prefix.
    pref64 = "2001:db8:64::/96"
    share = Share(gate64, "--pref64", pref64)
    page_after_link_up()
    address = re.search(r"inet6 (fd\S+)/64 scope global", ip(CLIENT, "-6 address show dev eth0"))[1]
    prefix = address.split("::")[0] if "::" in address else ":".join(address.split(":")[:4])
    clat = f"{prefix}::464"
    (WORK / "tayga.conf").write_text(f"tun-device clat\nprefix {pref64}\nipv4-addr 192.0.0.2\nipv6-addr {prefix}::465\n"
                                     f"map 192.0.0.1 {clat}\ndata-dir {WORK}\n")
    run("tayga", "-c", str(WORK / "tayga.conf"), "--mktun", namespace=CLIENT)
    ip(CLIENT, "link set clat up")
    run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.eth0.accept_ra=2", "net.ipv6.conf.eth0.proxy_ndp=1", namespace=CLIENT)
    until("the default route is back", lambda: learn_resolver() and "default" in ip(CLIENT, "-6 route"))
    ip(CLIENT, f"-6 route add {clat}/128 dev clat")
    ip(CLIENT, f"-6 neigh add proxy {clat} dev eth0")
    ip(CLIENT, "address add 192.0.0.1/32 dev clat")
    ip(CLIENT, "route add default dev clat src 192.0.0.1 mtu 1260")
    tayga = subprocess.Popen(["ip", "netns", "exec", CLIENT, "tayga", "-d", "-c", str(WORK / "tayga.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("a page over IPv4", lambda: ADDRESS in run("curl", "-4", "-s", "-m", "2", f"http://{SERVER}/", namespace=CLIENT))
        print("  an IPv4-only program fetches a page by its IPv4 literal", flush=True)
    finally:
        tayga.terminate()
        tayga.wait(LIMIT)
        run("tayga", "-c", str(WORK / "tayga.conf"), "--rmtun", namespace=CLIENT, check=False)
        run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0", "net.ipv6.conf.eth0.accept_ra=1", namespace=CLIENT)
    share.stop()


def test_an_interface_goes_and_one_is_down(gate64):
    ip(HOST, "link add name lan2 type veth peer name lan2p")
    share = Share(gate64, downstream="lan2", name="going")
    share.begins()
    ip(HOST, "link del lan2")
    share.ends_by_itself(5, "lan2")
    assert "ERROR" not in share.text(), share.text()
    # An upstream that is down is waited for.
    ip(HOST, "link set wan down")
    share = Share(gate64)
    until("the line says why", lambda: "does not serve (wan is down: `ip link set wan up`)" in share.text())
    ip(HOST, "link set wan up")
    ip(HOST, "route add default via 192.0.2.1")
    page_after_link_up()
    share.stop()


def test_what_an_interface_cannot_do(gate64):
    """Each is refused before anything is changed, by one line."""
    run("ip", "tuntap", "add", "tun9", "mode", "tun", namespace=HOST)
    ip(HOST, "link add br0 type bridge")
    ip(HOST, "link add name port type veth peer name portp")
    ip(HOST, "link set port master br0")
    try:
        for flags, says in (
            (("--upstream", "wan", "--downstream", "lo"), "lo is the loopback interface: no other host is behind it"),
            (("--upstream", "lo", "--downstream", "lan"), "lo is the loopback interface"),
            (("--upstream", "wan", "--downstream", "tun9"), "tun9 has no link layer (a tun device, WireGuard, or a modem in raw-IP mode)"),
            (("--upstream", "wan", "--downstream", "port"), "port is a port of br0, which has the addresses: share br0 itself"),
        ):
            print(f"  {refused(gate64, flags, 5, says)}", flush=True)
        run("ethtool", "-K", "port", "gro", "on", namespace=HOST)
        share = Share(gate64, downstream="br0")
        until("merged frames are warned of", lambda: "port below br0 may merge frames (GRO)" in share.text())
        share.begins()
        share.stop()
    finally:
        for name in ("tun9", "br0", "port"):
            ip(HOST, f"link del {name}", check=False)


def refused(gate64, flags, code, says, state=WORK / "state"):
    """The last line of a share that does not start."""
    done = subprocess.run(["ip", "netns", "exec", HOST, gate64, "share", *flags, "--state", str(state), "--socket", str(WORK / "no.sock"), "--dns", f"udp://{SERVER}"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    assert done.returncode == code and says in done.stdout, f"{flags}: exit code {done.returncode}: {done.stdout}"
    assert "An IPv6-only network" not in done.stdout, f"{flags}: it says that it shares: {done.stdout}"
    return done.stdout.strip().splitlines()[-1]


def test_bad_input(gate64):
    good = ("--upstream", "wan", "--downstream", "lan")
    for flags, code, says in (
        (("--upstream", "nowhere", "--downstream", "lan"), 5, "interfaces here"),
        (("--upstream", "wan", "--downstream", "wan"), 3, "upstream as well"),
        ((*good, "--prefix", "fd00::/48"), 3, "/64"),
        ((*good, "--prefix", "delegated", "--test"), 3, "test network has no native IPv6"),
        ((*good, "--preference", "highest"), 3, "share.preference"),
        (("--upstream", "wan"), 2, "--downstream"),
    ):
        refused(gate64, flags, code, says)
    # A port range of the operator's is held whole or not at all.
    limited = ["ip", "netns", "exec", HOST, "prlimit", "--nofile=4096:4096", gate64, "share", *good, "--ports", "20000-29999",
               "--state", str(WORK / "state"), "--dns", f"udp://{SERVER}"]
    done = subprocess.run(limited, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    assert done.returncode == 3 and "10000 ports need 20000 sockets, and this process may open 3072" in done.stdout, done.stdout
    with dns_port_taken():
        print(f"  {refused(gate64, good, 1, 'port 53 is another program')}", flush=True)
    with read_only() as state:
        print(f"  {refused(gate64, good, 1, 'Read-only file system', state)}", flush=True)
    share = Share(gate64)
    share.begins()
    refused(gate64, good, 1, "another gate64 shares to lan already")
    share.stop()


@contextlib.contextmanager
def dns_port_taken():
    """By a program that binds the wildcard addresses, as dnsmasq does."""
    def bind():
        one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        one.bind(("::", 53))
        return one
    with within(HOST, bind):
        yield


@contextlib.contextmanager
def read_only():
    """A directory on a file system that takes nothing."""
    directory = WORK / "read-only"
    directory.mkdir()
    run("mount", "-t", "tmpfs", "-o", "ro", "none", str(directory))
    try:
        yield directory
    finally:
        run("umount", str(directory))
        directory.rmdir()


def main():
    if "--serve" in sys.argv:
        return serve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    gate64 = os.path.abspath(sys.argv[1])
    wanted = sys.argv[2:]
    tests = [(name, work) for name, work in globals().items() if name.startswith("test_") and (not wanted or name[5:] in wanted)]
    failed = []
    build()
    try:
        for name, work in tests:
            print(name[5:].replace("_", " "), flush=True)
            before = state_of_host()
            try:
                work(gate64)
                is_as_it_was(before)
            except Exception as error:  # noqa: BLE001: every test is run
                failed.append(name)
                print(f"  FAILED: {error}", flush=True)
                for one in WORK.glob("*.out"):
                    print(one.read_text(errors="replace")[-3000:], flush=True)
                end_all(HOST, signal.SIGINT)
                with contextlib.suppress(AssertionError):
                    until("no share is left", lambda: not run("ip", "netns", "pids", HOST), 10)
            ip(CLIENT, "link set eth0 down")
            for one in WORK.glob("*.out"):
                one.unlink()
            pathlib.Path(f"/etc/netns/{CLIENT}/resolv.conf").write_text("")
    finally:
        tear_down()
    print(f"share: {len(tests) - len(failed)} passed, {len(failed)} failed {' '.join(failed)}")
    return 1 if failed or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
