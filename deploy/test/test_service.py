#!/usr/bin/env python3
"""gate64 run as the systemd unit runs it: with the unit's capabilities and no others, as a user without power. It tells
the service manager that it is ready and alive, survives a reload, stops cleanly, and leaves nothing behind.
Usage: test_service.py GATE64, as root."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from interoperation.network import LIMIT, Failed, wait_until  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNIT = (ROOT / "deploy" / "systemd" / "gate64.service").read_text()
NAMESPACE = f"g64-service-{os.getpid()}"
IN_NAMESPACE = ["ip", "netns", "exec", NAMESPACE]
NOBODY = 65534
METRICS = "http://[::1]:9464"

CONFIGURATION = """
[dataplane]
session_count_max = 10_000
[[interface]]
name = "lan"
[[interface]]
name = "wan"
[nat64]
pref64 = ["2001:db8:64::/96"]
[[pool4]]
prefix = "192.0.2.0/28"
[dns64]
listen = ["[::1]:53"]
upstream = ["udp://127.0.0.1:5300"]
allow_from = ["::1/128"]
[metrics]
listen = "[::1]:9464"
[api]
socket = "{work}/gate64.sock"
"""


def unit_setting(name):
    return re.search(rf"^{name}=(.*)$", UNIT, re.MULTILINE)[1]


def build_network():
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    commands = ["link set lo up"]
    for name in ("lan", "wan"):
        commands += [f"link add {name} type veth peer name {name}-far", f"link set {name} up", f"link set {name}-far up"]
    commands += ["address add 2001:db8:1::1/64 dev lan nodad", "address add 198.51.100.1/30 dev wan"]
    for command in commands:
        subprocess.run(["ip", "-n", NAMESPACE, *command.split()], check=True)


def start(gate64, work):
    """The program as the unit starts it, in the namespace."""
    capabilities = ",".join("+" + name.removeprefix("CAP_").lower() for name in unit_setting("AmbientCapabilities").split())
    command = [
        *IN_NAMESPACE,
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
        f"--inh-caps=-all,{capabilities}", f"--ambient-caps=-all,{capabilities}", f"--bounding-set=-all,{capabilities}",
        gate64, "run", "--config", str(work / "gate64.toml"),
    ]
    watchdog = str(int(unit_setting("WatchdogSec")) * 1_000_000)
    environment = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(work / "notify"), "WATCHDOG_USEC": watchdog}
    return subprocess.Popen(command, env=environment, stdout=(work / "log").open("w"), stderr=subprocess.STDOUT)


def wait_notified(notify, wanted, seconds=LIMIT):
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        notify.settimeout(left)
        try:
            if wanted in notify.recv(4096).decode().splitlines():
                return
        except TimeoutError:
            break
    raise Failed(f"does not tell the service manager {wanted}")


def status_of(path):
    answer = subprocess.run([*IN_NAMESPACE, "curl", "-s", "-o", "/dev/null", "--max-time", "20", "-w", "%{http_code}", METRICS + path],
                            stdout=subprocess.PIPE, text=True)
    return answer.stdout


def attached():
    links = subprocess.run(["ip", "-n", NAMESPACE, "-details", "link", "show"], stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in links.stdout.splitlines() if "prog/xdp" in line]


def exercise(process, notify, work):
    wait_notified(notify, "READY=1")
    # The kernel may still have to notice that the links are up.
    wait_until("/readyz answers 200", lambda: status_of("/readyz") == "200")
    for path in ("/healthz", "/metrics"):
        if (status := status_of(path)) != "200":
            raise Failed(f"is ready, but {path} answers {status}")
    if len(attached()) != 2:
        raise Failed(f"is ready, but XDP is on {len(attached())} of its 2 interfaces")
    wait_notified(notify, "WATCHDOG=1", int(unit_setting("WatchdogSec")))
    process.send_signal(signal.SIGHUP)
    wait_notified(notify, "RELOADING=1")
    wait_notified(notify, "READY=1")
    if "took over the new configuration" not in (work / "log").read_text() or status_of("/readyz") != "200":
        raise Failed("does not survive SIGHUP")
    process.send_signal(signal.SIGTERM)
    wait_notified(notify, "STOPPING=1")
    if process.wait(LIMIT) != 0:
        raise Failed(f"ends with {process.returncode} after SIGTERM")
    if attached():
        raise Failed(f"leaves its program behind: {attached()}")
    if (work / "gate64.sock").exists():
        raise Failed("leaves its socket behind")


def main():
    work = pathlib.Path(tempfile.mkdtemp())
    process = None
    try:
        build_network()
        (work / "gate64.toml").write_text(CONFIGURATION.format(work=work))
        gate64 = shutil.copy(sys.argv[1], work)  # the build's folder may be closed to others
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(work / "notify"))
        for path in (work, work / "notify"):
            os.chown(path, NOBODY, NOBODY)
        process = start(gate64, work)
        exercise(process, notify, work)
        print("service: ready, alive, reloaded and stopped with the unit's capabilities only")
        return 0
    except Failed as fault:
        print(f"gate64 {fault}; it said:\n{(work / 'log').read_text()}")
        return 1
    finally:
        if process and process.poll() is None:
            process.kill()
            process.wait()
        subprocess.run(["ip", "netns", "delete", NAMESPACE])
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
