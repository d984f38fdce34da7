"""A tester and a device in two namespaces, for `gate64 bench` over interfaces.

    tester i0 ── lan device wan ── r0 tester
"""

import subprocess

from .network import Network

LAN6, LAN4, WAN6, WAN4 = "2001:db8:1::1", "203.0.113.1", "2001:db8:2::1", "198.51.100.1"
PREFIX = "2001:db8:64::/96"

CONFIG = f"""
[dataplane]
session_count_max = 65536
[[interface]]
name = "lan"
[[interface]]
name = "wan"
[nat64]
pref64 = ["{PREFIX}"]
[[pool4]]
prefix = "192.0.2.0/24"
[metrics]
listen = "[::1]:9464"
[api]
socket = "{{work}}/gate64.sock"
"""


class Bench(Network):
    """The two namespaces; the device's programs are the caller's."""

    def __init__(self, gate64, work):
        super().__init__("tester", "device")
        self.gate64, self.work = gate64, work

    def build(self):
        for name in self.names:
            for parameter in ("ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad", "ipv6/conf/default/router_solicitations",
                              "ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"):
                self.set(name, parameter, 0)
            self.ip(name, "link set lo up")
        self.link(("tester", "i0"), ("device", "lan"), offload=False)
        self.link(("tester", "r0"), ("device", "wan"), offload=False)
        self.ip("tester", "address add 2001:db8:1::2/64 dev i0 nodad", "address add 203.0.113.2/30 dev i0",
                "address add 2001:db8:2::2/64 dev r0 nodad", "address add 198.51.100.2/30 dev r0")
        self.ip("device", f"address add {LAN6}/64 dev lan nodad", f"address add {LAN4}/30 dev lan",
                f"address add {WAN6}/64 dev wan nodad", f"address add {WAN4}/30 dev wan",
                "-6 route add 2001:2::/48 via 2001:db8:1::2", "-6 route add 2001:2:0:ffff::/64 via 2001:db8:2::2",
                "-4 route add 198.18.0.0/16 via 203.0.113.2", "-4 route add 198.19.0.0/16 via 198.51.100.2")
        self.carriers()

    def forwarding(self, on):
        """Whether the device's kernel forwards."""
        self.set("device", "ipv6/conf/all/forwarding", int(on))
        self.set("device", "ipv4/ip_forward", int(on))

    def start_gate64(self):
        (self.work / "gate64.toml").write_text(CONFIG.format(work=self.work))
        log = self.work / "gate64.log"
        program = self.start("device", log, self.gate64, "run", "--config", self.work / "gate64.toml")
        url = "http://[::1]:9464/readyz"
        self.wait_for("gate64 is ready", program, log,
                      lambda: self.run("device", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url, fails=True) == "200")
        return program

    def tester(self, kind, *options, seconds=120):
        """Runs the tester; gives its exit code, output and errors."""
        via = (LAN4 if kind == "nat44" else LAN6, WAN6 if kind == "ipv6" else WAN4)
        words = [self.gate64, "bench", *options, "--kind", kind, "--pref64", PREFIX, "--initiator", "i0", "--initiator-via", via[0],
                 "--responder", "r0", "--responder-via", via[1]]
        done = subprocess.run(self.command("tester", *words), text=True, capture_output=True, timeout=seconds)
        return done.returncode, done.stdout, done.stderr
