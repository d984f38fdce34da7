"""Two hosts, a router on each side, and gate64 between them.

    host6 ── edge6 ── lan[gate]wan ── edge4 ── host4

The IPv6 host also translates for an IPv4 program of its own (tayga, the CLAT of RFC 6877). Documentation and benchmarking addresses only.
"""

import ipaddress
import json

from .network import Network, wait_until

PREFIX = ipaddress.IPv6Network("2001:db8:64::/96")
HOST6, EDGE6, GATE6 = "2001:db8:1::10", "2001:db8:1::1", "2001:db8:2::1"
HOST4, HOST4_OTHER, EDGE4, GATE4 = "203.0.113.10", "203.0.113.11", "198.51.100.2", "198.51.100.1"
POOL = "192.0.2.1"
# Addresses behind the hosts that no kernel answers for: scapy's.
SCAPY6, SCAPY6_OTHER, SCAPY4 = "2001:db8:47::1", "2001:db8:47::2", "198.18.4.1"
CLAT6 = "2001:db8:46::1"
STATIC_PORT, STATIC_PORT_OTHER, STATIC_ECHO = 5001, 5002, 7

CONFIG = f"""
[dataplane]
session_count_max = 65536
[[interface]]
name = "lan"
[[interface]]
name = "wan"
[nat64]
pref64 = ["{PREFIX}"]
{{nat64}}
[[pool4]]
prefix = "{POOL}/32"
[[static]]
protocol = "icmp"
v6 = "[{HOST6}]:{STATIC_ECHO}"
v4 = "{POOL}:{STATIC_ECHO}"
[[static]]
protocol = "udp"
v6 = "[{HOST6}]:{STATIC_PORT}"
v4 = "{POOL}:{STATIC_PORT}"
[[static]]
protocol = "tcp"
v6 = "[{HOST6}]:{STATIC_PORT_OTHER + 1}"
v4 = "{POOL}:{STATIC_PORT_OTHER + 1}"
[[static]]
protocol = "tcp"
v6 = "[{SCAPY6}]:{STATIC_PORT}"
v4 = "{POOL}:{STATIC_PORT}"
[[static]]
protocol = "tcp"
v6 = "[{SCAPY6_OTHER}]:{STATIC_PORT_OTHER}"
v4 = "{POOL}:{STATIC_PORT_OTHER}"
[metrics]
listen = "[::1]:9464"
[api]
socket = "{{work}}/gate64.sock"
"""
STATIC_TCP = STATIC_PORT_OTHER + 1


def in_prefix(address):
    """How an IPv4 address looks to the IPv6 side."""
    return str(PREFIX[int(ipaddress.IPv4Address(address))])


class Topology(Network):
    """The network, and the gateway in it."""

    def __init__(self, gate64, work):
        super().__init__("host6", "edge6", "gate", "edge4", "host4")
        self.gate64, self.work, self.gateway = gate64, work, None

    def build(self):
        for name in self.names:
            for parameter in ("ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad", "ipv6/conf/default/router_solicitations",
                              "ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):
                self.set(name, parameter, 0)
            self.ip(name, "link set lo up")
        for name in ("host6", "edge6"):
            self.set(name, "ipv6/conf/all/forwarding", 1)
        self.set("edge4", "ipv4/ip_forward", 1)
        self.link(("host6", "eth0"), ("edge6", "host"))
        self.link(("edge6", "gate"), ("gate", "lan"), offload=False)
        self.link(("edge4", "gate"), ("gate", "wan"), offload=False)
        self.link(("host4", "eth0"), ("edge4", "host"))
        self.ip("host6", f"address add {HOST6}/64 dev eth0 nodad", f"-6 route add default via {EDGE6}",
                "-6 route add blackhole 2001:db8:47::/64")
        self.ip("edge6", f"address add {EDGE6}/64 dev host nodad", "address add 2001:db8:2::2/64 dev gate nodad",
                f"-6 route add default via {GATE6}", f"-6 route add 2001:db8:46::/47 via {HOST6}")
        self.ip("gate", f"address add {GATE6}/64 dev lan nodad", f"address add {GATE4}/30 dev wan",
                "-6 route add default via 2001:db8:2::2", f"-4 route add default via {EDGE4}")
        self.ip("edge4", f"address add {EDGE4}/30 dev gate", "address add 203.0.113.1/24 dev host",
                f"-4 route add {POOL} via {GATE4}", f"-4 route add 198.18.4.0/24 via {HOST4}")
        self.ip("host4", f"address add {HOST4}/24 dev eth0", f"address add {HOST4_OTHER}/24 dev eth0",
                "-4 route add default via 203.0.113.1", "-4 route add blackhole 198.18.4.0/24")
        self.carriers()

    def start_gateway(self, nat64=""):
        """Starts gate64 with these lines in [nat64], in place of one that runs."""
        if self.gateway:
            self.stop(self.gateway)
        (self.work / "gate64.toml").write_text(CONFIG.format(nat64=nat64, work=self.work))
        self.gateway = self.start("gate", self.work / "gate64.log", self.gate64, "run", "--config", self.work / "gate64.toml")
        url = "http://[::1]:9464/readyz"
        wait_until("gate64 is ready", lambda: self.run("gate", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url, fails=True) == "200")
        # Neighbours are known before a test counts packets.
        for name, address in (("host6", GATE6), ("gate", EDGE4), ("host6", in_prefix(HOST4))):
            ping = ("ping", "-c", 1, "-W", 5, address)
            wait_until(f"{address} answers", lambda: " 0% packet loss" in self.run(name, *ping, fails=True))

    def sessions(self, *filters):
        return self.show("sessions", *filters)

    def mtu(self, interface):
        """What gate64 takes for the MTU of one of its interfaces."""
        [found] = [one["mtu"] for one in self.show("interfaces") if one["name"] == interface]
        return found

    def show(self, *what):
        return json.loads(self.run("gate", self.gate64, "show", *what, "--json", "--socket", self.work / "gate64.sock"))
