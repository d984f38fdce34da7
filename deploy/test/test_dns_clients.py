#!/usr/bin/env python3
"""gate64 as a DNS64 server alone, asked by the programs that people ask with: dig over UDP and TCP, delv that validates
what it gets, kdig over TLS and HTTPS with the certificate checked. Behind it stands nsd with a zone signed by BIND's tools.
Usage: test_dns_clients.py GATE64, as root."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

NAMESPACE = f"g64-dns-clients-{os.getpid()}"
IN_NAMESPACE = ["ip", "netns", "exec", NAMESPACE]
NSD, GATEWAY = "127.0.0.2", "127.0.0.1"
LIMIT = 60  # seconds for each step
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"

ZONE = """$TTL 300
@ IN SOA ns nobody 1 7200 3600 604800 60
@ IN NS ns
ns IN A 198.51.100.53
v4 IN A 198.51.100.1
both IN A 198.51.100.2
both IN AAAA 2001:db8::2
alias IN CNAME v4
moved IN DNAME sub
host.sub IN A 198.51.100.3
"""

# More addresses than a datagram of 512 octets holds.
MANY = "".join(f"many IN A 198.51.100.{n}\n" for n in range(100, 150))

CONFIGURATION = """
[nat64]
pref64 = ["64:ff9b::/96"]
wkp_strict = false
[dns64]
listen = ["127.0.0.1:53"]
upstream = ["udp://127.0.0.2:53"]
allow_from = ["127.0.0.0/8"]
dnssec = "{dnssec}"
trust_anchors = ["{anchor}"]
[dns64.tls]
listen = ["127.0.0.1:853"]
https_listen = ["127.0.0.1:443"]
certificate = "{work}/dns.pem"
key = "{work}/dns.key"
name = "dns.example"
[metrics]
listen = "127.0.0.1:9464"
[api]
socket = "{work}/gate64.sock"
"""


class Failed(Exception):
    pass


def run(*command, accepted=(0,)):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=dict(os.environ, PATH=PATH), timeout=LIMIT)
    if done.returncode not in accepted:
        raise Failed(f"{' '.join(map(str, command))} ends with {done.returncode}: {done.stdout}")
    return done.stdout


def inside(*command, accepted=(0,)):
    return run(*IN_NAMESPACE, *command, accepted=accepted)


def signed_zone(work):
    """Writes the zone and its signatures; the DS record of its key, as a trust anchor."""
    (work / "test.zone").write_text(ZONE + MANY)
    run("dnssec-keygen", "-q", "-a", "ECDSAP256SHA256", "-f", "KSK", "-K", work, "test")
    run("dnssec-signzone", "-S", "-z", "-K", work, "-d", work, "-o", "test", "-f", work / "test.signed", work / "test.zone")
    return (work / "dsset-test.").read_text().splitlines()[0]


def start_nsd(work):
    (work / "nsd.conf").write_text(
        f'server:\n  ip-address: {NSD}\n  server-count: 1\n  zonesdir: "{work}"\n  pidfile: "{work}/nsd.pid"\n  database: ""\n'
        f'  xfrdfile: "{work}/xfrd"\n  zonelistfile: "{work}/zonelist"\n  xfrdir: "{work}"\n  username: ""\n'
        f'remote-control:\n  control-enable: no\nzone:\n  name: test\n  zonefile: test.signed\n')
    return start("nsd", "-d", "-c", work / "nsd.conf")


def start(*command):
    return subprocess.Popen([*IN_NAMESPACE, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                            env=dict(os.environ, PATH=PATH))


def make_certificate(work):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=dns.example",
        "-addext", "subjectAltName=DNS:dns.example", "-addext", "basicConstraints=critical,CA:FALSE",
        "-keyout", work / "dns.key", "-out", work / "dns.pem")


def wait_for(what, is_so):
    deadline = time.monotonic() + LIMIT
    while not is_so():
        if time.monotonic() > deadline:
            raise Failed(f"waited {LIMIT} s for {what}")
        time.sleep(0.1)


def dig(*words, server=GATEWAY):
    return inside("dig", f"@{server}", "+time=10", "+tries=2", *words, accepted=(0, 9))


def short(*words):
    return dig("+short", *words).split()


def expect(what, found, wanted):
    if found != wanted:
        raise Failed(f"{what}: {found!r}, not {wanted!r}")


def check_dig():
    expect("dig of an IPv4-only name", short("AAAA", "v4.test"), ["64:ff9b::c633:6401"])
    expect("dig of it over TCP", short("+tcp", "AAAA", "v4.test"), ["64:ff9b::c633:6401"])
    expect("dig without EDNS", short("+noedns", "AAAA", "v4.test"), ["64:ff9b::c633:6401"])
    expect("dig with a cookie", short("+cookie=0102030405060708", "AAAA", "v4.test"), ["64:ff9b::c633:6401"])
    expect("dig of a name with AAAA", short("AAAA", "both.test"), ["2001:db8::2"])
    expect("dig of an alias", short("AAAA", "alias.test"), ["v4.test.", "64:ff9b::c633:6401"])
    expect("dig of a name below DNAME", short("AAAA", "host.moved.test")[-1], "64:ff9b::c633:6403")
    expect("dig -x of a synthetic address", short("-x", "64:ff9b::c000:aa")[-1:], ["ipv4only.arpa."])
    expect("dig of ipv4only.arpa", short("AAAA", "ipv4only.arpa"), ["64:ff9b::c000:aa", "64:ff9b::c000:ab"])
    if "status: NXDOMAIN" not in dig("AAAA", "none.test"):
        raise Failed("a name that does not exist: " + dig("AAAA", "none.test"))
    cut = dig("+noedns", "+ignore", "AAAA", "many.test")
    if not re.search(r"flags:[ a-z]* tc", cut):
        raise Failed(f"50 addresses in 512 octets: {cut}")
    expect("dig that asks again by TCP", len(short("+noedns", "AAAA", "many.test")), 50)


def check_kdig(work):
    checked = [f"+tls-ca={work}/dns.pem", "+tls-hostname=dns.example"]
    for transport in ("+tls", "+https", "+https-get"):
        found = inside("kdig", f"@{GATEWAY}", transport, *checked, "+short", "AAAA", "v4.test")
        expect(f"kdig {transport}", found.split(), ["64:ff9b::c633:6401"])
        found = inside("kdig", f"@{GATEWAY}", transport, *checked, "+short", "AAAA", "many.test")
        expect(f"kdig {transport} of 50 addresses", len(found.split()), 50)
    refused = inside("kdig", f"@{GATEWAY}", "+tls", checked[0], "+tls-hostname=else.example", "+short", "AAAA", "v4.test", accepted=(0, 1))
    if "64:ff9b" in refused:
        raise Failed(f"kdig takes the certificate for another name: {refused}")


def check_delv(work, anchor):
    """A client that validates (DO and CD) gets what the zone signed, and no more."""
    _, _, _, tag, algorithm, digest_type, *digest = anchor.split()
    (work / "anchors").write_text(f'trust-anchors {{ test. static-ds {tag} {algorithm} {digest_type} "{"".join(digest)}"; }};\n')
    asked = ("delv", f"@{GATEWAY}", "-a", work / "anchors", "+root=test", "+cdflag")
    for name, kind in (("v4.test", "A"), ("both.test", "AAAA"), ("alias.test", "A"), ("host.moved.test", "A")):
        said = inside(*asked, name, kind, accepted=(0, 1))
        if "; fully validated" not in said:
            raise Failed(f"delv of {name} {kind}: {said}")
    said = inside(*asked, "v4.test", "AAAA", accepted=(0, 1))
    if "64:ff9b" in said or "ncache nxrrset" not in said:
        raise Failed(f"delv, which validates by itself, of an IPv4-only name's AAAA: {said}")


def check_what_is_shown(gate64, work):
    shown = json.loads(inside(gate64, "show", "dns", "--json", "--socket", work / "gate64.sock"))
    transports = {row["transport"] for row in shown["outcomes"] if row["queries"]}
    expect("transports in show dns", transports, {"udp", "tcp", "tls", "https"})
    steps = inside(gate64, "explain", "alias.test", "--client", GATEWAY, "--socket", work / "gate64.sock")
    if "synthesised: 64:ff9b::c633:6401" not in steps or "NOERROR, 2 records" not in steps:
        raise Failed(f"explain alias.test: {steps}")


def start_gate64(gate64, work, anchor, dnssec):
    (work / "gate64.toml").write_text(CONFIGURATION.format(work=work, anchor=anchor, dnssec=dnssec))
    process = start(gate64, "run", "--config", work / "gate64.toml")
    # While nobody listens, dig says so in lines that +short does not keep from its output.
    answered = ["64:ff9b::c000:aa", "64:ff9b::c000:ab"]
    wait_for("gate64 to answer", lambda: process.poll() is not None or short("AAAA", "ipv4only.arpa") == answered)
    if process.poll() is not None:
        raise Failed(f"gate64 ends with {process.returncode}")
    return process


def main():
    gate64 = sys.argv[1]
    work = pathlib.Path(tempfile.mkdtemp())
    running = []
    run("ip", "netns", "add", NAMESPACE)
    try:
        run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
        anchor = signed_zone(work)
        make_certificate(work)
        running.append(start_nsd(work))
        wait_for("nsd to answer", lambda: "198.51.100.1" in dig("+short", "A", "v4.test", server=NSD))
        for dnssec in ("off", "validate"):
            running.append(start_gate64(gate64, work, anchor, dnssec))
            check_dig()
            check_kdig(work)
            check_delv(work, anchor)
            check_what_is_shown(gate64, work)
            running[-1].terminate()
            expect("the exit code of gate64", running.pop().wait(LIMIT), 0)
        print("dns clients: dig, delv and kdig get right answers over UDP, TCP, TLS and HTTPS, without and with validation")
        return 0
    except Failed as fault:
        print(f"dns clients: {fault}")
        return 1
    finally:
        for process in running:
            process.kill()
            process.wait()
        run("ip", "netns", "delete", NAMESPACE)
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
