"""Path MTU discovery by the kernels of both hosts (RFC 8201, RFC 1191, RFC 7915 sections 4.2 and 5.2): a link somewhere is made
narrow, the sender meets it, and its kernel has to have learned what fits."""

import errno
import hashlib
import re
import socket
import threading

from .network import Failed, standing_in, wait_until
from .topology import HOST4, HOST6, POOL, STATIC_PORT, STATIC_TCP, in_prefix

IPV6_DONTFRAG = 62
PMTUDISC_DO = 2
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23
WIDE, NARROW = 1500, 1400
TRANSFER = bytes(range(251)) * 4000


class Direction:
    """A sender, how it reaches the receiver, and how much longer its packets are than they are on the other side."""

    def __init__(self, sender, receiver, to, bind, port_udp, port_tcp, header):
        self.sender, self.receiver, self.to, self.bind = sender, receiver, to, bind
        self.port_udp, self.port_tcp, self.header = port_udp, port_tcp, header
        self.family = socket.AF_INET6 if header == 40 else socket.AF_INET
        self.family_there = socket.AF_INET if header == 40 else socket.AF_INET6


FROM6 = Direction("host6", "host4", in_prefix(HOST4), HOST4, 4000, 4000, 40)
FROM4 = Direction("host4", "host6", POOL, HOST6, STATIC_PORT, STATIC_TCP, 20)


def learned(net, way):
    route = net.run(way.sender, "ip", "route", "get", way.to)
    found = re.search(r" mtu (\d+)", route)
    return int(found[1]) if found else WIDE


def forget(net):
    for name in ("host6", "edge6", "gate"):
        net.ip(name, "-6 route flush cache")
    for name in ("host4", "edge4", "gate"):
        net.ip(name, "-4 route flush cache")


def udp(net, way, fits):
    """Datagrams that may not be fragmented: refused until the kernel knows the path, then one of exactly that size arrives."""
    with standing_in(net[way.receiver]):
        there = socket.socket(way.family_there, socket.SOCK_DGRAM)
        there.bind((way.bind, way.port_udp))
        there.settimeout(20)
    with standing_in(net[way.sender]):
        here = socket.socket(way.family, socket.SOCK_DGRAM)
    here.settimeout(20)
    if way.family == socket.AF_INET6:
        here.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
        here.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
    else:
        here.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
    with there, here:
        here.connect((way.to, way.port_udp))

        def found():
            """Probes as long as the kernel thinks the path carries, which a second narrow link may make shorter."""
            sent(here, bytes((mtu := learned(net, way)) - way.header - 8))
            return mtu == fits
        try:
            wait_until("", found)
        except Failed:
            raise Failed(f"the sender learned {learned(net, way)} instead of {fits}") from None
        payload = TRANSFER[:fits - way.header - 8]
        # The errors of earlier datagrams may still be on their way.
        wait_until(f"the sender's kernel takes what fits {fits}", lambda: sent(here, payload))
        try:
            received, peer = there.recvfrom(WIDE)
            while not any(received):
                received, peer = there.recvfrom(WIDE)  # a probe
        except TimeoutError:
            raise Failed(f"a packet of {fits} octets does not arrive") from None
        if received != payload:
            raise Failed(f"{len(received)} other octets arrive instead of {len(payload)}")
        # Behind an answer no error of a datagram before is on its way.
        there.sendto(b"k", peer)
        wait_until("the answer", lambda: answered(here))


def sent(here, payload):
    """Whether the kernel took it."""
    try:
        here.send(payload)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        return False
    return True


def answered(here):
    """Whether something has come, rather than an error of a datagram before."""
    try:
        return here.recv(WIDE)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
    return False


def tcp(net, way):
    """A transfer; gives the segment size that the sender ended with."""
    result = []
    with standing_in(net[way.receiver]):
        listener = socket.create_server((way.bind, way.port_tcp), family=way.family_there)
    listener.settimeout(20)

    def receive():
        digest, count = hashlib.sha256(), 0
        connection, _ = listener.accept()
        connection.settimeout(20)
        with connection:
            while octets := connection.recv(65536):
                digest.update(octets)
                count += len(octets)
            connection.sendall(b"k")
        result.append((count, digest.digest()))
    thread = threading.Thread(target=receive)
    thread.start()
    try:
        with standing_in(net[way.sender]):
            here = socket.socket(way.family, socket.SOCK_STREAM)
        with listener, here:
            here.settimeout(20)
            here.connect((way.to, way.port_tcp))
            here.sendall(TRANSFER)
            here.shutdown(socket.SHUT_WR)
            if here.recv(1) != b"k":
                raise Failed("the receiver gives up")
            segment = here.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    except OSError as error:
        raise Failed(f"the transfer ends with {error!r}") from None
    finally:
        thread.join(25)
    if result != [(len(TRANSFER), hashlib.sha256(TRANSFER).digest())]:
        raise Failed(f"{result[0][0] if result else 0} octets arrive of {len(TRANSFER)}, or others")
    return segment


def beyond(net, way, name, route, fits):
    """The narrow link is a router's behind gate64: its ICMP error is translated."""
    net.ip(name, f"{route} mtu lock {NARROW}")
    try:
        forget(net)
        udp(net, way, fits)
        forget(net)
        tcp(net, way)
        if (mtu := learned(net, way)) != fits:
            raise Failed(f"with TCP the sender learned {mtu} instead of {fits}")
    finally:
        net.ip(name, route)
        forget(net)
    return f"UDP and TCP: the sender learned {fits}"


def set_mtu(net, ends, interface, mtu):
    """Of both ends of a link; gate64 hears of its own by netlink."""
    for name, end in ends:
        net.ip(name, f"link set {end} mtu {mtu}")
    wait_until(f"gate64 has heard that {interface} has an MTU of {mtu}", lambda: net.mtu(interface) == mtu)


def own_link(net, way, interface, far, fits, clamped):
    """The narrow link is gate64's own: it answers itself, and clamps the MSS of TCP."""
    ends = (("gate", interface), far)
    set_mtu(net, ends, interface, NARROW)
    try:
        forget(net)
        udp(net, way, fits)
        forget(net)
        segment = tcp(net, way)
        mtu = learned(net, way)
        if clamped and mtu != WIDE:
            raise Failed(f"with the MSS clamped, TCP still met the limit and learned {mtu}")
        if not clamped and mtu != fits:
            raise Failed(f"with TCP the sender learned {mtu} instead of {fits}")
        # Timestamps take 12 octets of a segment.
        if segment > fits - way.header - 20:
            raise Failed(f"segments of {segment} octets on a path of {fits}")
    finally:
        set_mtu(net, ends, interface, WIDE)
        forget(net)
    return f"UDP: the sender learned {fits}; TCP: {f'segments clamped to {segment}' if clamped else f'learned {fits}'}"


def from6_beyond(net):
    return beyond(net, FROM6, "edge4", "-4 route replace 203.0.113.0/24 dev host", NARROW + 20)


def from4_beyond(net):
    return beyond(net, FROM4, "edge6", "-6 route replace 2001:db8:1::/64 dev host metric 256", NARROW - 20)


def from6_own(net, clamped=True):
    return own_link(net, FROM6, "wan", ("edge4", "gate"), NARROW + 20, clamped)


def from4_own(net, clamped=True):
    return own_link(net, FROM4, "lan", ("edge6", "gate"), NARROW - 20, clamped)
