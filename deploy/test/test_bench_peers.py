#!/usr/bin/env python3
"""How `make bench-peers` ends when it cannot measure: a program that does not run, a peer that answers nothing, and SIGTERM. It
prints no table then, and leaves no namespace behind. Usage: test_bench_peers.py GATE64, as root."""

import contextlib
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from interoperation.network import Failed, wait_until  # noqa: E402

BENCH = pathlib.Path(__file__).with_name("bench_peers.py")


def start(program):
    return subprocess.Popen([BENCH, program, "--rounds", "1"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def namespaces(running):
    lines = subprocess.run(["ip", "netns", "list"], text=True, capture_output=True).stdout.splitlines()
    return [line for line in lines if line.split()[0].endswith(f"-{running.pid}")]


def runs(running, word):
    """Whether a program with that word in its command line runs in one of them."""
    for name in namespaces(running):
        for pid in subprocess.run(["ip", "netns", "pids", name.split()[0]], text=True, capture_output=True).stdout.split():
            with contextlib.suppress(OSError):
                if word in pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                    return True
    return False


def ended(running, *parts):
    said, errors = running.communicate(timeout=120)
    if running.returncode != 1 or said or not all(part in errors for part in parts):
        raise Failed(f"ends with {running.returncode}, prints {said!r} and says {errors.strip()!r} instead of {parts}")
    if left := namespaces(running):
        raise Failed(f"leaves {left} behind")
    return errors.strip().splitlines()[-1]


def script(work, text):
    program = work / "program"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def gone(gate64, work):
    return ended(start(script(work, "echo no such luck; exit 3")), "null forwarder", "no such luck")


def silent(gate64, work):
    """It says that it forwards, and does not."""
    text = f'[ "$2" = forward ] || exec {gate64} "$@"\necho forwards between nothing; exec sleep 100'
    return ended(start(script(work, text)), "null forwarder", "answers nothing")


def terminated(gate64, work):
    running = start(gate64)
    wait_until("the null forwarder runs", lambda: runs(running, "forward"))
    running.send_signal(signal.SIGTERM)
    return ended(running, "interrupted by SIGTERM after 0 whole rounds")


def main():
    gate64 = pathlib.Path(sys.argv[1]).resolve()
    work = pathlib.Path(tempfile.mkdtemp())
    failed = 0
    for check in (gone, silent, terminated):
        begin = time.monotonic()
        try:
            found, word = check(gate64, work), "ok   "
        except Failed as fault:
            found, word, failed = fault, "FAIL ", failed + 1
        print(f"{word} bench-peers: {check.__name__} ({found}; {time.monotonic() - begin:.1f} s)", flush=True)
    shutil.rmtree(work)
    return failed


if __name__ == "__main__":
    sys.exit(main())
