#!/usr/bin/env python3
"""gate64, unbound and BIND as DNS64 in front of one nsd, loaded by dnsperf in turn: CPU time of the server for each answer, from the
cache and for names never asked before. Usage: bench_dns.py GATE64 [ROUNDS]. All is on the loopback interface; the servers have one
thread for UDP each. What a server costs is what the kernel charged its process, so other work on the machine disturbs it little."""

import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

PORT = 5300
CACHED_NAMES = 1000
CACHED_SECONDS = os.environ.get("SECONDS_EACH", "4")
NEW_NAMES = int(os.environ.get("NEW_NAMES", "20000"))
OUTSTANDING = "100"
LOST_MAX = 0.01
TICKS = os.sysconf("SC_CLK_TCK")
# Loopback addresses of this process alone.
NETWORK = f"127.{64 + (os.getpid() >> 8) % 128}.{os.getpid() % 256}"
UPSTREAM = f"{NETWORK}.1"
# BIND listens on addresses that an interface has by name, and no others.
BIND = "127.0.0.1"
BIND_PORT = 20000 + os.getpid() % 10000


class Failed(Exception):
    """What was found instead of what should be."""


def port(addr):
    return str(BIND_PORT if addr == BIND else PORT)


def nsd(work):
    names = "\n".join(f"n{n} A 9.1.{n >> 8}.{n & 255}" for n in range(CACHED_NAMES))
    (work / "bench.zone").write_text(f"$ORIGIN bench.\n$TTL 3600\n@ SOA ns nobody 1 7200 3600 604800 3600\n@ NS ns\nns A 9.9.9.9\n"
                                     f"*.new A 9.2.3.4\n{names}\n")
    (work / "nsd.conf").write_text(
        f'server:\n  ip-address: {UPSTREAM}@{PORT}\n  server-count: 1\n  zonesdir: "{work}"\n  pidfile: "{work}/nsd.pid"\n'
        f'  database: ""\n  xfrdfile: "{work}/xfrd"\n  zonelistfile: "{work}/zonelist"\n  username: ""\n  rrl-ratelimit: 0\n'
        f'remote-control:\n  control-enable: no\nzone:\n  name: bench\n  zonefile: bench.zone\n')
    return ["nsd", "-d", "-c", work / "nsd.conf"]


def gate64(program, work, addr):
    (work / "gate64.toml").write_text(
        f'[nat64]\npref64 = ["64:ff9b::/96"]\n[dns64]\nlisten = ["{addr}:{PORT}"]\nupstream = ["udp://{UPSTREAM}:{PORT}"]\n'
        f'udp_threads = 1\nupstream_timeout = "3s"\n[api]\nsocket = "{work}/api.sock"\n')
    return [program, "run", "--config", work / "gate64.toml"]


def unbound(work, addr):
    (work / "unbound.conf").write_text(
        f'server:\n  interface: {addr}@{PORT}\n  access-control: 127.0.0.0/8 allow\n  do-daemonize: no\n  use-syslog: no\n  username: ""\n'
        f'  chroot: ""\n  directory: "{work}"\n  pidfile: "{work}/unbound.pid"\n  num-threads: 1\n  module-config: "dns64 iterator"\n'
        f'  dns64-prefix: 64:ff9b::/96\n  do-not-query-localhost: no\n  num-queries-per-thread: 4096\n  outgoing-range: 4096\n'
        f'  msg-cache-size: 64m\n  rrset-cache-size: 64m\n  so-rcvbuf: 4m\n'
        f'forward-zone:\n  name: "."\n  forward-addr: {UPSTREAM}@{PORT}\nremote-control:\n  control-enable: no\n')
    return ["unbound", "-d", "-c", work / "unbound.conf"]


def bind(work, addr):
    (work / "named.conf").write_text(
        f'options {{\n  directory "{work}";\n  listen-on port {BIND_PORT} {{ {addr}; }};\n  listen-on-v6 {{ none; }};\n  pid-file "{work}/named.pid";\n'
        f'  session-keyfile "{work}/session.key";\n  allow-query {{ any; }};\n  recursion yes;\n  dnssec-validation no;\n  forward only;\n'
        f'  forwarders port {PORT} {{ {UPSTREAM}; }};\n  recursive-clients 8192;\n  max-cache-size 128m;\n  dns64 64:ff9b::/96 {{ clients {{ any; }}; }};\n}};\n'
        'controls { };\n')
    return ["named", "-g", "-n", "1", "-c", work / "named.conf"]


def start(command, work, running):
    log = open(work / f"{pathlib.Path(command[0]).name}.log", "wb")
    path = os.environ["PATH"] + ":/usr/sbin"
    running.append(subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env=dict(os.environ, PATH=path)))
    return running[-1]


def wait_until_answers(what, addr, name, wanted, kind):
    for _ in range(300):
        said = subprocess.run(["dig", f"@{addr}", "-p", port(addr), "+short", "+time=1", "+tries=1", kind, name], capture_output=True, text=True).stdout
        if said.strip() == wanted:
            return
        time.sleep(0.1)
    raise Failed(f"{what} answers {name} with {said.strip()!r}, not {wanted}")


def cpu_seconds(pid):
    """User and system time of all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def load(addr, queries, *how):
    """Answers, and answers per second."""
    command = ["dnsperf", "-s", addr, "-p", port(addr), "-d", str(queries), "-q", OUTSTANDING, "-c", "4", "-t", "5", *how]
    done = subprocess.run(command, capture_output=True, text=True)
    sent, completed, rate = (re.search(rf"{what}:\s+([\d.]+)", done.stdout) for what in ("Queries sent", "Queries completed", "Queries per second"))
    if done.returncode != 0 or not (sent and completed and rate):
        raise Failed(f"dnsperf ends with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    sent, completed = int(sent[1]), int(completed[1])
    codes = re.search(r"Response codes:\s+(.*)", done.stdout)[1]
    if completed < sent * (1 - LOST_MAX) or not codes.startswith("NOERROR") or "," in codes:
        raise Failed(f"{completed} of {sent} answered: {codes}")
    return completed, float(rate[1])


def measure(pid, addr, queries, *how):
    """Microseconds of user and of system time for each answer, and answers per second."""
    before = cpu_seconds(pid)
    answers, rate = load(addr, queries, *how)
    user, system = (1e6 * (now - then) / answers for now, then in zip(cpu_seconds(pid), before))
    return user, system, rate


def new_names(work, tag):
    path = work / "new.txt"
    path.write_text("".join(f"x{n}-{tag}.new.bench AAAA\n" for n in range(NEW_NAMES)))
    return path


def verdict(ratios, goal):
    """What the ratios of all rounds, in order of size, say of a goal: a goal within their range is neither reached nor missed for sure."""
    median = statistics.median(ratios)
    if goal is None:
        return "no goal"
    if ratios[0] >= goal:
        return f"goal {goal}: reached in every round"
    if ratios[-1] < goal:
        return f"goal {goal}: missed by {100 * (goal / median - 1):.0f} %"
    side = "above" if median >= goal else "below"
    return f"goal {goal}: within the spread, the median {100 * abs(median / goal - 1):.0f} % {side} it"


def table(results, kind, goals):
    print(f"\n{kind:12} {'user µs':>9} {'system µs':>10} {'total µs':>9} {'least':>7} {'most':>7} {'answers/s':>10}")
    totals = {}
    for (name, one), rows in results.items():
        if one != kind:
            continue
        totals[name] = [user + system for user, system, _ in rows]
        user, system, rate = (statistics.median(column) for column in zip(*rows))
        print(f"{name:12} {user:9.2f} {system:10.2f} {statistics.median(totals[name]):9.2f} {min(totals[name]):7.2f} {max(totals[name]):7.2f} {rate:10.0f}")
    for other, goal in goals.items():
        ratios = sorted(theirs / ours for ours, theirs in zip(totals["gate64"], totals[other]))
        spread = f"{statistics.median(ratios):.2f} of gate64, {ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds"
        print(f"{other} costs {spread}; {verdict(ratios, goal)}")


def main():
    program = str(pathlib.Path(sys.argv[1]).resolve())
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    work = pathlib.Path(tempfile.mkdtemp())
    running = []
    addrs = {name: f"{NETWORK}.{n}" for n, name in enumerate(("gate64", "unbound"), 2)} | {"bind": BIND}
    results = {(name, kind): [] for kind in ("cached", "new names") for name in addrs}
    try:
        start(nsd(work), work, running)
        wait_until_answers("nsd", UPSTREAM, "n1.bench", "9.1.0.1", "A")
        pids = {"gate64": start(gate64(program, work, addrs["gate64"]), work, running).pid,
                "unbound": start(unbound(work, addrs["unbound"]), work, running).pid,
                "bind": start(bind(work, addrs["bind"]), work, running).pid}
        cached = work / "cached.txt"
        cached.write_text("".join(f"n{n}.bench AAAA\n" for n in range(CACHED_NAMES)))
        for name, addr in addrs.items():
            wait_until_answers(name, addr, "n1.bench", "64:ff9b::901:1", "AAAA")
            load(addr, cached, "-n", "2")
        for number in range(rounds):
            # There and back, so that what drifts does not favour one of them.
            for name in list(addrs)[:: 1 if number % 2 == 0 else -1]:
                results[name, "cached"].append(measure(pids[name], addrs[name], cached, "-l", CACHED_SECONDS))
                results[name, "new names"].append(measure(pids[name], addrs[name], new_names(work, f"{number}"), "-n", "1"))
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
    except Failed as fault:
        print(f"bench-dns: {fault}", file=sys.stderr)
        for log in work.glob("*.log"):
            print(log.read_text(errors="replace")[-1000:], file=sys.stderr)
        return 1
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=20)
        shutil.rmtree(work)
    print(f"CPU time of the server for each AAAA answer, {rounds} rounds, {OUTSTANDING} questions outstanding, {os.cpu_count()} cores, "
          f"Linux {os.uname().release}")
    table(results, "cached", {"unbound": 1.25, "bind": 1.45})
    table(results, "new names", {"unbound": 1.0, "bind": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
