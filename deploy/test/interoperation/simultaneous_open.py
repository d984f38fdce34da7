"""Two TCPs of scapy open a connection to each other at the same time (RFC 9293 figure 8; RFC 6146 section 3.5.2.2)."""

import socket
import time

from scapy.all import IP, TCP, Ether, IPv6, Raw

from .network import Failed, standing_in
from .topology import POOL, SCAPY4, SCAPY6, SCAPY6_OTHER, STATIC_PORT, STATIC_PORT_OTHER, in_prefix

WAIT = 30
ETH_P_ALL = 3


class End:
    """One TCP, without a kernel's help."""

    def __init__(self, net, host, router, family, address, port, sequence):
        self.family, self.address, self.port, self.sequence = family, address, port, sequence
        self.peer, self.peer_port, self.peer_sequence = None, None, None
        with standing_in(net[host]):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self.socket.bind(("eth0", 0))
        link = net.run(router, "cat", "/sys/class/net/host/address").strip()
        self.ether = Ether(src=net.run(host, "cat", "/sys/class/net/eth0/address").strip(), dst=link)

    def meet(self, peer, port):
        self.peer, self.peer_port = peer, port

    def send(self, flags, payload=b""):
        segment = TCP(sport=self.port, dport=self.peer_port, flags=flags, seq=self.sequence,
                      ack=self.peer_sequence if "A" in flags else 0)
        packet = self.ether / self.family(src=self.address, dst=self.peer) / segment
        self.socket.send(bytes(packet / Raw(payload) if payload else packet))
        self.sequence += len(payload) + sum(flag in flags for flag in "SF") * ("A" not in flags or "F" in flags)

    def receive(self, flags, payload=b""):
        """The next segment to this end has to be this one, with a right checksum."""
        deadline = time.monotonic() + WAIT
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                packet = Ether(self.socket.recv(2048))
            except TimeoutError:
                break
            if self.family not in packet or TCP not in packet or packet[self.family].dst != self.address or packet[TCP].dport != self.port:
                continue
            segment = packet[TCP]
            if str(segment.flags) != flags or bytes(segment.payload)[:len(payload)] != payload:
                raise Failed(f"{self.address} gets {segment.flags} {bytes(segment.payload)} instead of {flags} {payload}")
            self.check_sum(packet)
            self.peer_sequence = segment.seq + len(payload) + ("S" in flags) + ("F" in flags)
            return packet[self.family].src, segment.sport
        raise Failed(f"{self.address} does not get the {flags} segment")

    def check_sum(self, packet):
        again = self.family(bytes(packet[self.family]))
        del again[TCP].chksum
        if self.family(bytes(again))[TCP].chksum != packet[TCP].chksum:
            raise Failed(f"{self.address} gets a segment with a wrong checksum")


def finish(net, one, two):
    """Both have the other's SYN: SYN,ACK from both, octets both ways, FIN from both."""
    for end in (one, two):
        end.sequence -= 1  # figure 8: the SYN is sent again, with the acknowledgement
        end.send("SA")
        end.sequence += 1
    one.receive("SA")
    two.receive("SA")
    for sender, receiver, payload in ((one, two, b"from one"), (two, one, b"from two")):
        sender.send("PA", payload)
        receiver.receive("PA", payload)
    count = expect_state(net, (one, two), "ESTABLISHED")
    for sender, receiver in ((one, two), (two, one)):
        sender.send("FA")
        receiver.receive("FA")
    expect_state(net, (one, two), "V6 FIN + V4 FIN RCV")
    return count


def expect_state(net, ends, wanted):
    """The sessions of the ends have to be in this state of RFC 6146; gives their number."""
    hosts = {f"[{end.address}]:{end.port}" for end in ends}
    states = [session["state"] for session in net.sessions("--protocol", "tcp") if session["v6"] in hosts]
    if set(states) != {wanted}:
        raise Failed(f"the sessions are {states} instead of {wanted}")
    return len(states)


def end6(net, address, port, sequence):
    return End(net, "host6", "edge6", IPv6, address, port, sequence)


def over_the_families(net):
    """The IPv4 end has sent its SYN before the other's is there."""
    six, four = end6(net, SCAPY6, 6000, 1000), End(net, "host4", "edge4", IP, SCAPY4, 6001, 50_000)
    six.meet(in_prefix(SCAPY4), 6001)
    six.send("S")
    mapped = four.receive("S")
    four.meet(*mapped)
    four.send("S")
    if six.receive("S") != (in_prefix(SCAPY4), 6001):
        raise Failed("the IPv6 end sees another peer")
    finish(net, six, four)
    return f"through {mapped[0]}:{mapped[1]}"


def by_hairpin(net):
    one, two = end6(net, SCAPY6, STATIC_PORT, 2000), end6(net, SCAPY6_OTHER, STATIC_PORT_OTHER, 90_000)
    one.meet(in_prefix(POOL), STATIC_PORT_OTHER)
    two.meet(in_prefix(POOL), STATIC_PORT)
    one.send("S")
    two.send("S")
    for end, port in ((two, STATIC_PORT), (one, STATIC_PORT_OTHER)):
        if (seen := end.receive("S")) != (in_prefix(POOL), port):
            raise Failed(f"{end.address} sees {seen}")
    return f"{finish(net, one, two)} sessions"
