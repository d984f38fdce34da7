#!/usr/bin/env python3
"""Subscribers, pools and blocks of the running program, in namespaces: alarms, listings, explanations, pools that change under
traffic, and calculated ports looked up offline. Usage: test_subscribers.py GATE64, as root."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from interoperation.network import LIMIT, Failed, Network, json_lines, wait_until  # noqa: E402

METRICS = "http://127.0.0.1:9464"
SUBSCRIBERS = 64
DRAIN = "12s"  # until what has to be seen before is seen, on a busy machine as well

# Pools of 16 blocks to an address. One worker, so that the alarm counts all blocks.
CONFIGURATION = """
[dataplane]
workers = [0]
pool4_address_count_max = 8
session_count_max = 65536
[[interface]]
name = "lan"
[[interface]]
name = "wan"
[nat64]
pref64 = ["2001:db8:64::/96"]
{nat64}
{pools}
[subscriber]
port_block_size = 64
port_blocks_max = 1
port_reuse_delay = "5s"
block_idle = "5s"
{subscriber}
[[log.sink]]
type = "json"
target = "{work}/log.json"
events = ["alarm", "block"]
[metrics]
listen = "127.0.0.1:9464"
[api]
socket = "{work}/gate64.sock"
"""

# Answers with the address and port that it sees, and with what it was asked.
SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("198.51.100.2", 7))
while True:
    data, source = s.recvfrom(99)
    s.sendto(f"{source[0]}:{source[1]} ".encode() + data, source)
"""

# For each line "FIRST LAST": every subscriber of these sends one packet from its own socket; prints who is seen as what. Packets
# are numbered by line: an answer to an earlier one may come late.
CLIENTS = """
import json, select, socket, sys
sockets = {}
for count, line in enumerate(sys.stdin):
    first, last = map(int, line.split())
    waiting = {}
    for number in range(first, last):
        if number not in sockets:
            sockets[number] = s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            s.bind((f"2001:db8:1:{number:x}::2", 4000))
        sockets[number].sendto(str(count).encode(), ("2001:db8:64::c633:6402", 7))
        waiting[sockets[number]] = number
    seen = {}
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], 1)
        if not ready:
            break
        for s in ready:
            mapped, asked = s.recv(99).decode().split()
            if asked == str(count):
                seen[waiting.pop(s)] = mapped
    print(json.dumps(seen), flush=True)
"""


def expect(condition, what):
    if not condition:
        raise Failed(what)


def pool(prefix, more=""):
    return f'[[pool4]]\nprefix = "{prefix}"\nports = "1024-2047"\n{more}\n'


class Gateway(Network):
    """The program between those who talk through it, and its configuration."""

    def __init__(self, gate64, work):
        super().__init__("client", "gateway", "internet")
        self.gate64, self.work = gate64, work
        self.file, self.log = work / "gate64.toml", work / "log"
        self.process = None

    def build(self):
        for near, far in (("lan", "client"), ("wan", "internet")):
            self.link(("gateway", near), (far, "far"), offload=False)
        for name in self.names:
            self.ip(name, "link set lo up")
        self.ip("gateway", "address add 2001:db8:ff::1/64 dev lan nodad", "address add 198.51.100.1/24 dev wan",
                "route add 2001:db8:1::/48 via 2001:db8:ff::2")
        self.ip("client", "address add 2001:db8:ff::2/64 dev far nodad", "route add default via 2001:db8:ff::1",
                *(f"address add 2001:db8:1:{number:x}::2/128 dev lo" for number in range(SUBSCRIBERS)))
        self.ip("internet", "address add 198.51.100.2/24 dev far", "route add default via 198.51.100.1")
        self.start("internet", os.devnull, sys.executable, "-c", SERVER)

    def write(self, *pools, nat64="", subscriber=""):
        self.file.write_text(CONFIGURATION.format(work=self.work, pools="\n".join(pools), nat64=nat64, subscriber=subscriber))

    def serve(self):
        self.process = self.start("gateway", self.log, self.gate64, "run", "--config", self.file)
        self.wait_for("gate64 is ready", self.process, self.log, lambda: self.readyz()[0] == 200)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        expect(self.process.wait(LIMIT) == 0, f"ends with {self.process.returncode} after SIGTERM")

    def readyz(self):
        text = self.run("gateway", "curl", "-s", "-w", "\n%{http_code}", METRICS + "/readyz", fails=True)
        body, code = text.rsplit("\n", 1)
        return int(code), body

    def metric(self, name):
        text = self.run("gateway", "curl", "-s", METRICS + "/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        expect(found, f"/metrics has no {name}")
        return float(found[1])

    def ask(self, *command):
        return self.run("gateway", self.gate64, *command, "--socket", self.work / "gate64.sock")

    def listing(self, *what):
        return json.loads(self.ask("show", *what, "--json"))

    def preview(self):
        """What `check` says of a reload, and whether it would be taken over. The socket is the file's."""
        done = subprocess.run(self.command("gateway", self.gate64, "check", "--config", self.file, "--against-running"),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
        expect(done.returncode in (0, 1), f"check --against-running ends with {done.returncode}: {done.stdout}")
        return done.returncode == 0, done.stdout

    def reload(self, expected):
        """SIGHUP; what it said. `expected` is in it."""
        before = len(self.log.read_text())
        self.process.send_signal(signal.SIGHUP)
        said = lambda: self.log.read_text()[before:]
        wait_until(f"a reload says {expected!r}", lambda: expected in said())
        return said()

    def records(self):
        with contextlib.suppress(FileNotFoundError):
            return json_lines(self.work / "log.json")
        return []


class Clients:
    def __init__(self, gateway):
        command = gateway.command("client", sys.executable, "-c", CLIENTS)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        gateway.programs.append(self.process)

    def send(self, first, last):
        """What each subscriber from `first` to before `last` is seen as."""
        self.process.stdin.write(f"{first} {last}\n")
        self.process.stdin.flush()
        return {int(number): seen for number, seen in json.loads(self.process.stdout.readline()).items()}

    def mapped(self, first, last):
        """As `send`; everyone is answered, within a few tries while neighbours are looked for."""
        for _ in range(5):
            seen = self.send(first, last)
            if len(seen) == last - first:
                return seen
        raise Failed(f"of subscribers {first} to {last} only these are answered: {seen}")


ALARM = 'gate64_alarm{kind="blocks",of="default"}'


def alarm_is(gateway, raised):
    """The metric, /readyz, status and the log agree."""
    wait_until(f"the alarm on the pool is {'raised' if raised else 'off'}", lambda: gateway.metric(ALARM) == raised)
    code, body = gateway.readyz()
    expect(code == 200, f"/readyz answers {code} because of an alarm")
    expect(("of pool \"default\" is given out" in body) == raised, f"/readyz says {body!r}")
    expect(("alarm  " in gateway.ask("status")) == raised, "status and the metric do not agree")
    alarms = lambda: [one for one in gateway.records() if one["event"].startswith("alarm_")]
    wait_until("the alarm is in the log of allocations", lambda: alarms() and alarms()[-1]["event"] == ("alarm_raised" if raised else "alarm_cleared"))


def alarms_and_listings(gateway, clients):
    alarm_is_off = gateway.metric(ALARM) == 0
    expect(alarm_is_off, "an alarm is on before anything happened")
    seen = clients.mapped(0, 20)
    time.sleep(1.5)
    expect(gateway.metric(ALARM) == 0, "the alarm is on with 20 of 32 blocks")
    seen |= clients.mapped(20, 28)
    alarm_is(gateway, True)
    rows = gateway.listing("subscribers", "--limit", "0")
    expect(len(rows) == 28, f"show subscribers has {len(rows)} rows for 28")
    for row in rows:
        number = int(row["prefix"].split(":")[3].split("/")[0] or "0", 16)
        address, port = seen[number].split(":")
        first, last = row["blocks"][0]["first"], row["blocks"][0]["last"]
        expect(row["v4"] == address and first <= int(port) <= last, f"{row} is seen as {seen[number]}")
    one = gateway.listing("subscribers", "--v6", "2001:db8:1:5::/64")
    expect([row["prefix"] for row in one] == ["2001:db8:1:5::/64"], f"--v6 finds {one}")
    expect(len(gateway.listing("subscribers", "--top", "ports", "--limit", "3")) == 3, "--top does not take three")
    of_address = gateway.listing("subscribers", "--v4", "192.0.2.1", "--limit", "0")
    expect({row["v4"] for row in of_address} == {"192.0.2.1"}, f"--v4 finds {of_address}")
    pools = gateway.listing("pool")
    expect(sum(row["blocks_used"] for row in pools) == 28 and len(pools) == 2, f"show pool: {pools}")
    blocks = gateway.listing("blocks", "--limit", "0")
    expect(len(blocks) == 28, f"show blocks has {len(blocks)} rows for 28")
    address, port = seen[7].split(":")
    held = gateway.listing("blocks", "--v4", address, "--port", port)
    expect([row["subscriber"] for row in held] == ["2001:db8:1:7::/64"], f"the block of {seen[7]} is of {held}")
    return seen


def refusals_are_explained(gateway, clients):
    """32 blocks for 40 subscribers: those without say why, and what they would get."""
    clients.mapped(28, 32)
    # Nobody answers those that are refused.
    clients.send(32, 40)
    said = lambda: gateway.ask("explain", "2001:db8:1:27::2")
    wait_until("explain says why the last subscriber is refused", lambda: "no block is free" in said())
    without = [row for row in range(28, 40) if not gateway.listing("subscribers", "--v6", f"2001:db8:1:{row:x}::/64")]
    expect(without == list(range(32, 40)), f"of 40 subscribers {without} have none of the 32 blocks")
    said = gateway.ask("explain", "2001:db8:1:3::2")
    for part in ("subscriber 2001:db8:1:3::/64", "port block", "1 of 1 blocks", "sessions"):
        expect(part in said, f"explain lacks {part!r}: {said}")


def pools_change(gateway, clients, seen):
    """Refused, added, drained, cut; returns who is seen as what in the end."""
    expect(clients.mapped(0, 28) == seen, "mappings changed without a change of the pool")
    # Taken away while in use: refused, nothing changes.
    gateway.write(pool("192.0.2.0/32"))
    accepted, said = gateway.preview()
    expect(not accepted and "192.0.2.1" in said, f"the preview of a cut says {said}")
    gateway.reload("keeps the old configuration")
    expect(clients.mapped(0, 28) == seen, "a refused reload changed mappings")
    # More addresses.
    gateway.write(pool("192.0.2.0/31"), pool("203.0.113.0/30"))
    accepted, said = gateway.preview()
    expect(accepted and "added: 203.0.113.0" in said, f"the preview of an addition says {said}")
    gateway.reload("took over the new configuration")
    expect(clients.mapped(0, 28) == seen, "an addition changed mappings")
    alarm_is(gateway, False)
    # Drained: those on it stay, others do not come.
    more = pool("203.0.113.0/30")
    gateway.write(pool("192.0.2.0/31", 'drain = ["192.0.2.1"]'), more)
    accepted, said = gateway.preview()
    expect(accepted and "draining from now on: 192.0.2.1" in said, f"the preview of a drain says {said}")
    gateway.reload("took over the new configuration")
    new = clients.mapped(40, 64)
    expect(not any(one.startswith("192.0.2.1:") for one in new.values()), f"a drained address gives new blocks: {new}")
    expect(clients.mapped(0, 28) == seen, "a drain changed mappings")
    states = {row["v4"]: row["state"] for row in gateway.listing("pool")}
    expect(states["192.0.2.1"] == "draining" and states["203.0.113.0"] == "open", f"show pool: {states}")
    # Removed, with leave to cut: who was there comes back elsewhere, everyone else stays.
    gateway.write(pool("192.0.2.0/32"), more, nat64='pool4_removal = "cut"')
    accepted, said = gateway.preview()
    expect(accepted and "are cut: 192.0.2.1" in said, f"the preview of a cut that may be says {said}")
    gateway.reload("took over the new configuration")
    wait_until("what is cut has left the pool", lambda: "192.0.2.1" not in {row["v4"] for row in gateway.listing("pool")})
    after = clients.mapped(0, 28)
    for number, before in seen.items():
        stays = not before.startswith("192.0.2.1:")
        expect((after[number] == before) == stays, f"subscriber {number}, before {before}, is {after[number]} after the cut")
    expect(not any(one.startswith("192.0.2.1:") for one in after.values()), "the removed address is used")
    return after


def removal_drains_first(gateway, clients, seen):
    """With `drain` a removed address goes on until the deadline; then the rest is cut."""
    gone = "203.0.113.3"
    before = seen | clients.mapped(40, 64)
    expect(any(one.startswith(gone + ":") for one in before.values()), f"nobody is on {gone}: {before}")
    rest = pool("203.0.113.0/30", f'exclude = ["{gone}"]')
    gateway.write(pool("192.0.2.0/32"), rest, nat64=f'pool4_removal = "drain"\npool4_drain_deadline = "{DRAIN}"')
    accepted, said = gateway.preview()
    expect(accepted and "go on until the drain deadline" in said, f"the preview of a removal that drains says {said}")
    gateway.reload("took over the new configuration")
    expect(clients.mapped(0, 28) | clients.mapped(40, 64) == before, "a removal that drains changed mappings at once")
    wait_until("what is drained is cut at the deadline", lambda: gone not in {row["v4"] for row in gateway.listing("pool")})
    after = clients.mapped(0, 28) | clients.mapped(40, 64)
    for number, mapped in before.items():
        expect((after[number] == mapped) == (not mapped.startswith(gone + ":")), f"subscriber {number}, before {mapped}, is {after[number]}")


def ports_drain_first(gateway, clients):
    """So does a block in ports that a pool no longer has; a reload in between, which would refuse, changes nothing."""
    shrinks, last = ("203.0.113.0", "203.0.113.1", "203.0.113.2"), 1535
    is_gone = lambda mapped: mapped.split(":")[0] in shrinks and int(mapped.split(":")[1]) > last
    before = clients.mapped(0, 28) | clients.mapped(40, 64)
    expect(any(map(is_gone, before.values())), f"nobody has ports above {last}: {before}")
    smaller = pool("203.0.113.0/30", 'exclude = ["203.0.113.3"]').replace("2047", str(last))
    pools, deadline = (pool("192.0.2.0/32"), smaller, pool("203.0.113.4/31")), f'pool4_drain_deadline = "{DRAIN}"'
    gateway.write(*pools, nat64=f'pool4_removal = "drain"\n{deadline}')
    accepted, said = gateway.preview()
    expect(accepted and "go on until the drain deadline" in said, f"the preview of fewer ports says {said}")
    gateway.reload("took over the new configuration")
    gateway.write(*pools, nat64=deadline)
    accepted, said = gateway.preview()
    expect(accepted and "in use" not in said, f"while ports drain, the preview of no change says {said}")
    gateway.reload("took over the new configuration")
    expect(clients.mapped(0, 28) | clients.mapped(40, 64) == before, "fewer ports changed mappings at once")
    blocks = lambda: gateway.listing("blocks", "--limit", "0")
    wait_until("blocks in ports that went are cut at the deadline", lambda: not any(is_gone(f"{row['v4']}:{row['first']}") for row in blocks()))
    after = clients.mapped(0, 28) | clients.mapped(40, 64)
    for number, mapped in before.items():
        expect((after[number] == mapped) != is_gone(mapped), f"subscriber {number}, before {mapped}, is {after[number]} after its ports went")


def blocks_are_logged(gateway):
    """Each block given out and taken back is told once, in turns; what is held in the end goes back with the program."""
    held, told = set(), 0
    for record in gateway.records():
        if record["event"] == "stopped":
            held.clear()
        if not record["event"].startswith("block_"):
            continue
        told += 1
        key = (record["v4"], record["port_first"])
        is_new = record["event"] == "block_allocated"
        expect((key in held) != is_new, f"{record} comes while {sorted(held)} are held")
        (held.add if is_new else held.remove)(key)
    expect(told > 64 and not held, f"{told} events of blocks; after the end these are held: {sorted(held)}")


def calculated(gateway, clients):
    """Both questions offline, and the same ports on the wire."""
    fixed = '[[subscriber.deterministic]]\nprefixes = ["2001:db8:1::/60"]\npool = "fixed"\n'
    gateway.write(pool("192.0.2.0/32"), pool("203.0.113.0/31", 'pool = "fixed"'), subscriber=fixed)
    lookup = lambda what: gateway.run("gateway", gateway.gate64, "lookup", what, "--config", gateway.file)
    shares = {number: lookup(f"2001:db8:1:{number:x}::/64") for number in range(16)}
    gateway.serve()
    seen = clients.mapped(0, 16)
    for number, mapped in seen.items():
        address, port = mapped.split(":")
        share = re.search(r"(\S+)  ports (\d+)-(\d+)  \S+  \(deterministic\)", shares[number])
        expect(share and share[1] == address and int(share[2]) <= int(port) <= int(share[3]), f"{number} is seen as {mapped}, lookup: {shares[number]}")
        subscriber = "2001:db8:1::/64" if number == 0 else f"2001:db8:1:{number:x}::/64"
        expect(f"  {subscriber}  ports" in lookup(mapped + "/udp"), f"lookup {mapped}: {lookup(mapped)}")
    expect("deterministic" in gateway.ask("explain", "2001:db8:1:3::2"), "explain does not say that ports are calculated")
    stranger = clients.mapped(40, 41)[40]
    expect(stranger.startswith("192.0.2.0:"), f"a subscriber outside of the set is seen as {stranger}")
    gateway.end()


def main():
    with tempfile.TemporaryDirectory(prefix="gate64-subscribers-") as work:
        gateway = Gateway(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(work))
        try:
            gateway.build()
            gateway.write(pool("192.0.2.0/31"))
            gateway.serve()
            clients = Clients(gateway)
            seen = alarms_and_listings(gateway, clients)
            refusals_are_explained(gateway, clients)
            seen = pools_change(gateway, clients, seen)
            removal_drains_first(gateway, clients, seen)
            ports_drain_first(gateway, clients)
            gateway.end()
            blocks_are_logged(gateway)
            calculated(gateway, clients)
            print("subscribers: alarms, listings, explanations, live pools and calculated ports are as configured")
            return 0
        except Failed as fault:
            print(f"subscribers: {fault}; gate64 said:\n{gateway.log.read_text() if gateway.log.exists() else ''}")
            return 1
        finally:
            gateway.remove()


if __name__ == "__main__":
    sys.exit(main())
