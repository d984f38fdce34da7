"""Network namespaces for the tests in this folder: made with the process's number in their names, entered, and removed with
everything that runs in them."""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import time

LIMIT = 60  # seconds for a program or a wait, unless said otherwise; nothing is judged by it
CLONE_NEWNET = 0x4000_0000
LIBC = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """What was found instead of what should be."""


@contextlib.contextmanager
def standing_in(namespace):
    """The calling thread stands in the namespace: sockets made meanwhile belong there."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        enter(there)
        try:
            yield
        finally:
            enter(home)


def enter(handle):
    if LIBC.setns(handle.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def wait_until(what, ready, seconds=LIMIT):
    """Waits for `ready()`, which answers something true, and gives that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(0.05)
    raise Failed(f"{what}: not within {seconds} s")


def json_lines(path):
    """The objects in a file that is written to: the last line may not be whole yet."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Network:
    """Namespaces with veth pairs between them, and programs in them."""

    def __init__(self, *names):
        self.names = {name: f"g64-{name}-{os.getpid()}" for name in names}
        self.programs = []
        for namespace in self.names.values():
            subprocess.run(["ip", "netns", "add", namespace], check=True)

    def __getitem__(self, name):
        return self.names[name]

    def ip(self, name, *lines):
        for line in lines:
            subprocess.run(["ip", "-n", self[name], *line.split()], check=True)

    def set(self, name, parameter, value):
        """A kernel parameter below /proc/sys/net."""
        with standing_in(self[name]):
            pathlib.Path("/proc/sys/net", parameter).write_text(str(value))

    def link(self, one, two, offload=True):
        """A veth pair between (namespace, interface) and another, up. An AF_XDP socket at one end wants the other's checksum and
        segmentation offload off: it sees frames as that end's stack left them (veth, Linux 6.18)."""
        (a, a_name), (b, b_name) = one, two
        self.ip(a, f"link add {a_name} type veth peer name {b_name} netns {self[b]}", f"link set {a_name} up")
        self.ip(b, f"link set {b_name} up")
        if not offload:
            for name, interface in (one, two):
                self.run(name, "ethtool", "-K", interface, "tx", "off", "tso", "off", "gso", "off")

    def carriers(self):
        """A link drops what is sent before the kernel has noticed its carrier."""
        def ready():
            return all("state UP" in line for name in self.names for line in self.run(name, "ip", "-o", "link", "show", "type", "veth").splitlines())
        wait_until("links are up", ready)

    def command(self, name, *words):
        return ["ip", "netns", "exec", self[name], *map(str, words)]

    def run(self, name, *words, seconds=LIMIT, fails=False, **more):
        """A program's output; it has to succeed unless `fails`."""
        try:
            done = subprocess.run(self.command(name, *words), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=seconds, **more)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"{words[0]} does not end within {seconds} s: {late.stdout}") from None
        if done.returncode != 0 and not fails:
            raise Failed(f"`{' '.join(map(str, words))}` ends with {done.returncode}: {done.stdout.strip()}")
        return done.stdout

    def start(self, name, log, *words):
        """A program that runs until it is stopped or everything is removed."""
        program = subprocess.Popen(self.command(name, *words), stdout=open(log, "w"), stderr=subprocess.STDOUT, start_new_session=True)
        self.programs.append(program)
        return program

    def wait_for(self, what, program, log, ready):
        """Waits until a program is ready; one that ended instead is told by its last words."""
        def ready_or_gone():
            if program.poll() is not None:
                words = pathlib.Path(log).read_text().strip().splitlines()
                raise Failed(f"{what}: it ended with {program.returncode}: {words[-1] if words else 'no word'}")
            return ready()
        wait_until(what, ready_or_gone)

    def stop(self, program):
        if program.poll() is None:
            program.send_signal(signal.SIGTERM)
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    def remove(self):
        for program in reversed(self.programs):
            self.stop(program)
        for namespace in self.names.values():
            subprocess.run(["ip", "netns", "delete", namespace])
