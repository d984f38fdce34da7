#!/usr/bin/env python3
"""The log of allocations of a running gate64, under real traffic: look-ups of connections that live, files that are moved away,
other sinks after SIGHUP, a disk that is full and has room again, a collector that is not there, losses counted to the record.
Usage: test_log.py GATE64, as root."""

import collections
import fcntl
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from interoperation.network import LIMIT, Failed, Network, json_lines, wait_until  # noqa: E402

PREF64 = "2001:db8:64::"
SERVER = "198.51.100.2"
METRICS = "http://[::1]:9464"
FLOOD_SUBSCRIBERS, FLOOD_SESSIONS = 20, 4000  # more than the 65536 records that wait for a sink

CONFIGURATION = """
[dataplane]
session_count_max = 200_000
[[interface]]
name = "lan"
[[interface]]
name = "wan"
[nat64]
pref64 = ["{pref64}/96"]
[[pool4]]
prefix = "192.0.2.0/28"
[subscriber]
port_block_size = 1024
port_blocks_max = 4
[metrics]
listen = "[::1]:9464"
[api]
socket = "{work}/gate64.sock"
[log]
on_failure = "{on_failure}"
[log.journal]
path = "{work}/disk/journal"
"""

JSON_SINK = """
[[log.sink]]
type = "json"
target = "{work}/{name}"
events = ["block", "session"]
rotate_size = {size}
keep = 100
"""

# Nobody listens there, and nobody will.
DEAD_SINK = """
[[log.sink]]
type = "syslog"
target = "tcp://127.0.0.1:9"
events = ["block", "session"]
"""

# Says to each datagram where it came from.
ECHO = """
import socket
at = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
at.bind(("", 9000))
while True:
    _, peer = at.recvfrom(2000)
    at.sendto(f"{peer[0]}:{peer[1]}".encode(), peer)
"""

# One datagram from an address; prints what the server says.
ASK = """
import socket, sys
at = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
at.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
at.bind((sys.argv[1], int(sys.argv[2])))
at.settimeout(float(sys.argv[4]))
for _ in range(3):
    at.sendto(b"who am I", (sys.argv[3], 9000))
    try:
        print(at.recv(2000).decode())
        break
    except TimeoutError:
        pass
"""

# Sessions of many subscribers.
FLOOD = """
import socket, sys, time
for subscriber in range(int(sys.argv[4]), int(sys.argv[4]) + int(sys.argv[2])):
    for port in range(int(sys.argv[3])):
        at = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        at.setsockopt(socket.IPPROTO_IPV6, 78, 1)
        at.bind((f"2001:db8:1:{subscriber:x}::2", 10000 + port))
        at.sendto(b"x", (sys.argv[1], 9))
        at.close()
        if port % 64 == 0:
            time.sleep(0.004)
"""


def check(holds, text):
    if not holds:
        raise Failed(text)


class Net(Network):
    """Client, gateway and server in namespaces, and gate64 in the middle one."""

    def __init__(self, gate64, work):
        super().__init__("client", "gateway", "server")
        self.gate64, self.work = gate64, work
        self.process = None

    def build(self):
        for near, far in (("lan", "client"), ("wan", "server")):
            self.link(("gateway", near), (far, "far"), offload=False)
            self.ip(far, "link set lo up")
        self.ip("gateway", "link set lo up", "address add 2001:db8:1::1/64 dev lan nodad", "address add 198.51.100.1/24 dev wan",
                "route add 2001:db8:1::/48 via 2001:db8:1::2")
        # The gateway's own address is more specific than the local route.
        self.ip("client", "address add 2001:db8:1::2/64 dev far nodad", f"route add {PREF64}/96 via 2001:db8:1::1",
                "route add local 2001:db8:1::/48 dev lo", "-6 route add 2001:db8:1::1/128 dev far")
        self.ip("server", f"address add {SERVER}/24 dev far", "route add 192.0.2.0/28 via 198.51.100.1")
        (self.work / "disk").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", self.work / "disk"], check=True)
        self.start("server", os.devnull, sys.executable, "-c", ECHO)

    def configure(self, on_failure, *sinks):
        text = CONFIGURATION.format(pref64=PREF64, work=self.work, on_failure=on_failure)
        (self.work / "gate64.toml").write_text(text + "".join(sinks))

    def json_sink(self, name, size):
        return JSON_SINK.format(work=self.work, name=name, size=size)

    def serve(self):
        self.process = self.start("gateway", self.work / "log", self.gate64, "run", "--config", self.work / "gate64.toml")

    def said(self):
        return (self.work / "log").read_text()

    def ready(self):
        answer = self.run("gateway", "curl", "-s", "-w", "%{http_code}", METRICS + "/readyz", fails=True)
        return answer[-3:], answer[:-3]

    def metrics(self):
        text = self.run("gateway", "curl", "-s", METRICS + "/metrics")
        return {name: float(value) for name, value in re.findall(r"^(gate64_\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}

    def refused(self):
        """Packets that were dropped because the log cannot be written."""
        return sum(value for name, value in self.metrics().items() if 'reason="log_failing"' in name and "drops" in name)

    def ask(self, subscriber, patience=2):
        """Where the server sees that subscriber come from; nothing if it gets no answer."""
        source, server = f"2001:db8:1:{subscriber:x}::2", f"{PREF64}{SERVER}"
        return self.run("client", sys.executable, "-c", ASK, source, 5000, server, patience).strip()

    def flood(self, first, subscribers, sessions):
        """So many sessions of each of so many subscribers; nobody answers."""
        self.run("client", sys.executable, "-c", FLOOD, f"{PREF64}{SERVER}", subscribers, sessions, first)

    def lookup(self, *what):
        done = subprocess.run([self.gate64, "lookup", *map(str, what), "--journal", self.work / "disk/journal", "--json"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        check(done.returncode == 0, f"lookup {what} ends with {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    def holders(self, *what):
        return [holder["subscriber"] for holder in self.lookup(*what)["holders"]]

    def lines(self, name):
        path = self.work / name
        return json_lines(path) if path.exists() else []

    def remove(self):
        super().remove()
        subprocess.run(["umount", self.work / "disk"])
        shutil.rmtree(self.work)


def subscriber(number):
    return f"2001:db8:1:{number:x}::/64"


def another_process_writes_it(net):
    (net.work / "disk/journal").mkdir(0o750)
    with (net.work / "disk/journal/lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        net.configure("refuse-new", net.json_sink("events.json", 100_000_000))
        net.serve()
        wait_until("the other process", lambda: "another process writes it" in net.said())
        check("log.journal.path" in net.said(), "does not say what to do")
        wait_until("it is not ready", lambda: net.ready()[0] == "503")
    wait_until("it is ready", lambda: net.ready()[0] == "200")
    return "said, with advice; ready when it let go"


def a_live_connection(net):
    mapped = net.ask(1)
    check(mapped, "does not translate")
    began = time.monotonic()
    wait_until("the holder", lambda: net.holders(mapped + "/udp") == [subscriber(1)])
    took = time.monotonic() - began
    address, port = mapped.split(":")
    [had] = net.lookup("2001:db8:1:1::2")["holders"]
    check(had["v4"] == address and had["port_first"] <= int(port) <= had["port_last"], f"{had} does not hold {mapped}")
    check(net.holders(f"{address}:1023") == [], "somebody has a port that nobody has")
    answer = net.lookup(mapped, "--at", "2001-01-01T00:00:00Z")
    check(not answer["covered"] and "begins at" in answer["notes"][0], f"of before the journal it says {answer}")
    return f"{mapped} found after {took:.1f} s, both ways"


def moved_away(net):
    os.rename(net.work / "events.json", net.work / "events.json-20261123")
    net.ask(2)
    allocated = lambda name: [line["subscriber"] for line in net.lines(name) if line["event"] == "block_allocated"]
    wait_until("the new file", lambda: allocated("events.json") == [subscriber(2)])
    check(allocated("events.json-20261123") == [subscriber(1)], "writes into the file that was moved away")
    sequences = [line["sequence"] for name in ("events.json-20261123", "events.json") for line in net.lines(name)]
    check(sequences == list(range(sequences[0], sequences[0] + len(sequences))), f"records are missing or twice: {sequences}")
    return f"{len(sequences)} records, none missing, none twice"


def a_full_disk(net):
    filling = net.work / "disk/other"
    before = net.refused()
    with filling.open("wb", buffering=0) as other:
        try:
            while True:
                other.write(b"\0" * 4096)
        except OSError:
            pass
        # More than the journal's last page has room for; what is handed out before that is noticed is not lost.
        net.flood(0x1000, 400, 1)
        wait_until("it is not ready", lambda: net.ready()[0] == "503")
        wait_until("it says what to do", lambda: "free some space there" in net.said())
        # Who got a block just before is answered on: each try is a new subscriber's.
        fresh = itertools.count(0x2000)

        def refuses():
            net.ask(next(fresh), 0.2)
            return net.refused() - before

        refused = wait_until("it counts packets that were refused for it", refuses)
        check(net.ask(4, 0.2) == "", "hands out blocks that nobody can look up")
        check(net.ask(1), "a session from before is cut")
        check(net.metrics()['gate64_log_sink_up{sink="journal"}'] == 0, "the journal is said to be up")
    filling.unlink()
    began = time.monotonic()
    wait_until("it is ready", lambda: net.ready()[0] == "200")
    took = time.monotonic() - began
    check(net.ask(4), "does not hand out blocks again")
    check(net.holders("2001:db8:1:1000::/64") == [subscriber(0x1000)], "does not know who got a block while the disk was full")
    for number in (1, 4):
        mapped = net.ask(number)
        wait_until(f"the holder of {mapped}", lambda: net.holders(mapped) == [subscriber(number)])
    for text in ("the journal is written again", "port blocks are handed out"):
        wait_until(f"it says {text!r}", lambda: text in net.said())
    check(net.said().count("No space left on device") == 1, "does not say it once")
    return f"{refused:.0f} packets refused, live sessions went on; ready {took:.1f} s after there was room"


def other_sinks(net):
    net.configure("continue", net.json_sink("other.json", 1_000_000), DEAD_SINK)
    net.process.send_signal(signal.SIGHUP)
    wait_until("the new configuration", lambda: "took over the new configuration" in net.said())
    wanted = {"journal", f"json {net.work}/other.json", "syslog tcp://127.0.0.1:9"}
    sinks = lambda: {name.split('"')[1] for name in net.metrics() if name.startswith("gate64_log_sink_up")}
    wait_until(f"the metrics know {wanted}", lambda: sinks() == wanted)
    before = len(net.lines("events.json"))
    net.ask(5)
    wait_until("the new sink", lambda: any(line.get("subscriber") == subscriber(5) for line in net.lines("other.json")))
    check(len(net.lines("events.json")) == before, "writes to the sink that is gone")
    wait_until("nobody listens", lambda: "does the collector run" in net.said())
    return "old gone, new ones there, an absent collector said"


def losses_are_counted(net):
    before = net.metrics()
    rotated = lambda: sorted(net.work.glob("other.json*"))
    written = lambda: collections.Counter(line["event"] for path in rotated() for line in net.lines(path.name))
    created = lambda metrics: sum(value for name, value in metrics.items() if name.startswith("gate64_sessions_created_total"))
    sink = lambda metrics, what, name: metrics[f'gate64_log_sink_records_{what}{{sink="{name}"}}']
    good, dead = f"json {net.work}/other.json", "syslog tcp://127.0.0.1:9"

    # A worker that does not get its turn on a busy machine loses packets.
    wanted = FLOOD_SUBSCRIBERS * FLOOD_SESSIONS * 0.9
    for first in (0x100, 0x200, 0x300, 0x400):
        net.flood(first, FLOOD_SUBSCRIBERS, FLOOD_SESSIONS)
        if created(net.metrics()) - created(before) > wanted:
            break
    # Those of the first sink's time are in its files.
    earlier = sum(line["event"] == "session_created" for name in ("events.json-20261123", "events.json") for line in net.lines(name))
    found = {}

    def is_written():
        metrics = net.metrics()
        if sink(metrics, "waiting", good) == 0 and sink(metrics, "waiting", "journal") == 0:
            found.update(metrics=metrics, made=created(metrics), written=earlier + written()["session_created"],
                         in_rings=metrics["gate64_log_events_lost_total"])
            return found["made"] == found["written"] + found["in_rings"]

    try:
        wait_until("everything is written", is_written)
    except Failed as fault:
        raise Failed(f"{fault}: {found}") from None
    metrics, made = found["metrics"], found["made"]
    check(made - created(before) > wanted, f"made only {made - created(before):.0f} sessions")
    taken, lost, waiting = (sink(metrics, what, dead) for what in ("total", "lost_total", "waiting"))
    both = sink(metrics, "total", good)
    check(lost > 0, "loses nothing for a collector that is not there")
    check(taken + waiting + lost == both, f"of {both:.0f} records the dead sink took {taken:.0f}, lost {lost:.0f}, keeps {waiting:.0f}")
    check(net.ready()[0] == "200", "is not ready, though traffic is to go on")
    check(len(rotated()) > 1, "puts no file aside")
    return f"{made:.0f} sessions all written into {len(rotated())} files; the absent collector lost {lost:.0f} of {both:.0f}, to the record"


def a_clean_end(net):
    mapped = net.ask(1)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    time.sleep(1)
    net.process.send_signal(signal.SIGTERM)
    check(net.process.wait(LIMIT) == 0, f"ends with {net.process.returncode} after SIGTERM")
    check(net.holders(mapped, "--at", when) == [subscriber(1)], "does not know afterwards what was")
    answer = net.lookup(mapped)
    check(not answer["holders"] and "was stopped" in answer["notes"][0], f"after the end it says {answer}")
    journal = net.work / "disk/journal"
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", net.gate64, "lookup", mapped, "--journal", journal]
    stranger = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    check(stranger.returncode == 1 and str(journal) in stranger.stderr and "run it as root" in stranger.stderr,
          f"tells a stranger {stranger.stdout}{stranger.stderr}")
    return "known afterwards; nobody after the end; closed to strangers"


CHECKS = [
    ("another process writes the journal", another_process_writes_it),
    ("a live connection is looked up", a_live_connection),
    ("a file is moved away", moved_away),
    ("a full disk, refuse-new, and room again", a_full_disk),
    ("other sinks by SIGHUP", other_sinks),
    ("losses are counted", losses_are_counted),
    ("a clean end", a_clean_end),
]


def main():
    work = pathlib.Path(tempfile.mkdtemp())
    work.chmod(0o755)
    gate64 = shutil.copy(sys.argv[1], work)  # the build's folder may be closed to others
    net = Net(gate64, work)
    try:
        net.build()
        for name, test in CHECKS:
            print(f"ok    {name} ({test(net)})", flush=True)
        return 0
    except Failed as fault:
        said = net.said() if net.process else ""
        print(f"FAIL  {name}: {fault}; gate64 said:\n{said[-6000:]}")
        return 1
    finally:
        net.remove()


if __name__ == "__main__":
    sys.exit(main())
