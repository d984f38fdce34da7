#!/usr/bin/env python3
"""`gate64 check` accepts the example configuration, as it is and with every key that is commented out put in, and every
key that gate64 knows stands in it. Usage: test_example_configuration.py GATE64, as root."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMESPACE = f"g64-example-{os.getpid()}"
HEADER = re.compile(r"^\[\[?([\w.]+)\]\]?$", re.MULTILINE)
UNKNOWN = "no_such_key"


def check(gate64, text):
    """What `gate64 check` says of that configuration, on a machine that has the example's interfaces."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        return subprocess.run(["ip", "netns", "exec", NAMESPACE, gate64, "check", "--config", file.name],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)


def sections(text):
    """The text of each table, by its name; several of one name together."""
    parts = HEADER.split(text)
    found = {}
    for name, body in zip(parts[1::2], parts[2::2]):
        found[name] = found.get(name, "") + body
    return found


def faults(gate64, example, full):
    for name, text in (("the example", example), ("the example with every key put in", full)):
        answer = check(gate64, text)
        if answer.returncode != 0 or "64:ff9b::/96" not in answer.stdout:
            yield f"gate64 check of {name}: exit code {answer.returncode}:\n{answer.stdout}"
    # Of a table with an unknown key, check says which keys it knows.
    answer = check(gate64, HEADER.sub(rf"\g<0>\n{UNKNOWN} = 1", full)).stdout
    known = re.findall(rf'unknown key "{UNKNOWN}" in \[([\w.]+)\].*?accepted: ([\w, ]+)', answer, re.DOTALL)
    present = sections(full)
    yield from (f"gate64 check does not say which keys [{table}] has" for table in present.keys() - dict(known).keys())
    for table, keys in known:
        for key in keys.split(", "):
            if f"[{table}.{key}]" not in full and not re.search(rf"\b{key} =", present[table]):
                yield f"deploy/gate64.toml does not have {table}.{key}"


def main():
    gate64 = sys.argv[1]
    example = (ROOT / "deploy" / "gate64.toml").read_text()
    full = re.sub(r"^#(?=\S)", "", example, flags=re.MULTILINE)
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        subprocess.run(["ip", "-n", NAMESPACE, "link", "add", "ens1f0", "type", "veth", "peer", "name", "ens1f1"], check=True)
        found = list(dict.fromkeys(faults(gate64, example, full)))
    finally:
        subprocess.run(["ip", "netns", "delete", NAMESPACE])
    print("\n".join(found) or f"example: accepted, in both forms; it has every key of {len(sections(full))} tables")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
