#!/usr/bin/env python3
"""scapy, which shares no code with gate64, judges what `gate64 replay` makes of a corpus: every field of the
translated packet is worked out again here, and scapy computes lengths and checksums anew. Usage: test_scapy_translation.py GATE64"""

import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".cache" / "python" / "bin" / "python"
if pathlib.Path(sys.prefix) != PYTHON.parents[1]:
    os.execv(PYTHON, [str(PYTHON), *sys.argv])  # make deps put scapy there

from scapy.all import ICMP, IP, TCP, UDP, Ether, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, Raw, rdpcap, wrpcap  # noqa: E402

HOST, SERVER, SERVER6, POOL = "2001:db8:1::10", "198.51.100.7", "64:ff9b::c633:6407", "192.0.2.1"
CONFIG = f"""
[[interface]]
name = "v6"
[[interface]]
name = "v4"
[nat64]
pref64 = ["64:ff9b::/96"]
wkp_strict = false
[[pool4]]
prefix = "{POOL}/32"
"""


def ether(packet):
    return Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01") / packet


def none_now_and_then(n):
    """A UDP checksum: of each fourth datagram zero, which is none."""
    return 0 if n % 4 == 3 else None


def questions():
    for n in range(40):
        head = IPv6(src=HOST, dst=SERVER6, hlim=64 - n, tc=n, fl=n)
        yield head / UDP(sport=2000 + n, dport=53, chksum=none_now_and_then(n)) / Raw(bytes(range(n)))
        yield head / TCP(sport=3000 + n, dport=80, flags="S", seq=n, options=[("MSS", 1000 + n)]) / Raw(b"s" * n)
        yield head / ICMPv6EchoRequest(id=100 + n, seq=n, data=b"e" * n)


def answers(sent):
    for n, packet in enumerate(sent):
        head = IP(src=SERVER, dst=POOL, ttl=200 - n, tos=n, id=n, flags="DF")
        if UDP in packet:
            yield head / UDP(sport=53, dport=packet[UDP].sport, chksum=none_now_and_then(n)) / Raw(b"a" * n)
        elif TCP in packet:
            yield head / TCP(sport=80, dport=packet[TCP].sport, flags="SA", options=[("MSS", 900)])
        else:
            yield head / ICMP(type=0, id=packet[ICMP].id, seq=n) / Raw(b"r" * n)


def same(expected, got, what):
    """Lengths and checksums of `expected` are scapy's; the identification of IPv4 is gate64's choice."""
    assert bytes(expected) == bytes(got), f"{what}:\nexpected {bytes(expected).hex()}\ngot      {bytes(got).hex()}"


def check_v4(question, got):
    head = IP(src=POOL, dst=SERVER, ttl=question.hlim - 1, tos=question.tc, id=got.id, flags=got.flags)
    if UDP in question:
        none = 0 if question[UDP].chksum == 0 else None
        l4 = UDP(sport=got[UDP].sport, dport=53, chksum=none) / bytes(question[UDP].payload)
    elif TCP in question:
        l4 = question[TCP].copy()
        l4.sport, l4.chksum = got[TCP].sport, None
    else:
        echo = question[ICMPv6EchoRequest]
        l4 = ICMP(type=8, id=got[ICMP].id, seq=echo.seq) / echo.data
    same(head / l4, got, "IPv6 to IPv4")


def check_v6(answer, question, got):
    head = IPv6(src=SERVER6, dst=HOST, hlim=answer.ttl - 1, tc=answer.tos)
    if UDP in answer:
        l4 = UDP(sport=53, dport=question[UDP].sport) / bytes(answer[UDP].payload)
    elif TCP in answer:
        l4 = answer[TCP].copy()
        l4.dport, l4.chksum = question[TCP].sport, None
    else:
        l4 = ICMPv6EchoReply(id=question[ICMPv6EchoRequest].id, seq=answer[ICMP].seq, data=bytes(answer[ICMP].payload))
    same(head / l4, got, "IPv4 to IPv6")


def replay(gate64, directory, packets6, packets4):
    files = {name: str(directory / f"{name}.pcap") for name in ("in6", "in4", "out6", "out4")}
    for name, packets, start in (("in6", packets6, 1000), ("in4", packets4, 1010)):
        timed = []
        for n, packet in enumerate(packets):
            frame = ether(packet)
            frame.time = start + n / 1000
            timed.append(frame)
        wrpcap(files[name], timed, linktype=1)
    config = directory / "gate64.toml"
    config.write_text(CONFIG)
    command = [gate64, "replay", "--config", str(config), "--v6", files["in6"], "--v4", files["in4"]]
    subprocess.run([*command, "--out-v6", files["out6"], "--out-v4", files["out4"]], check=True, timeout=60)
    return [[frame.payload for frame in rdpcap(files[name])] for name in ("out6", "out4")]


def main():
    gate64 = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        asked = [IPv6(bytes(packet)) for packet in questions()]
        _, sent = replay(gate64, directory, asked, [])
        assert len(sent) == len(asked), f"{len(sent)} of {len(asked)} packets came out"
        for question, got in zip(asked, sent):
            check_v4(question, got)
        # The same captures give the same ports: now the answers to them.
        answered = [IP(bytes(packet)) for packet in answers(sent)]
        received, _ = replay(gate64, directory, asked, answered)
        assert len(received) == len(answered), f"{len(received)} of {len(answered)} answers came out"
        for answer, question, got in zip(answered, asked, received):
            check_v6(answer, question, got)
    print(f"scapy agrees with {len(sent)} packets to IPv4 and {len(received)} to IPv6")


main()
