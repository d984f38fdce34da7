#!/bin/sh
# Installs what a fresh Debian or Ubuntu lacks for one job: deps.sh build|lab|test|bench|fuzz|all
# Touches nothing when all is there; needs root (or sudo) only when something is missing.
set -eu

cd "$(dirname "$0")/.."

build='clang m4 libelf-dev zlib1g-dev pkg-config gcc libc6-dev make'
lab='iproute2 ethtool curl bind9-dnsutils iputils-ping traceroute iperf3 ncat dropbear-bin openssh-client'
test='tcpdump jq ndisc6 radvdump kea-dhcp6-server isc-dhcp-client prometheus python3 python3-venv systemd coturn tayga nftables bind9-utils nsd openssl unbound nfdump pmacct tshark rsyslog rsyslog-gnutls knot-dnsutils'
bench='valgrind iproute2 ethtool curl nftables tayga python3 nsd unbound bind9 bind9-dnsutils dnsperf'
fuzz='g++'

fail() {
    echo "make deps: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "root is needed to run «$*»: become root, or install sudo"
    fi
}

# A registry may fail for a moment, and another program hold apt's lock.
again() {
    for pause in 5 15 30 60; do
        "$@" && return 0
        echo "$*: failed, again in $pause s" >&2
        sleep "$pause"
    done
    "$@"
}

need_rust() {
    command -v cargo >/dev/null ||
        fail "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer with rustup, and open a new shell so that cargo is in PATH"
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_packages() {
    as_root apt-get update -qq -o Acquire::Retries=3 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
            -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@"
}

need_packages() {
    command -v dpkg-query >/dev/null ||
        fail "this is neither Debian nor Ubuntu: install the equivalents of: $*"
    missing=
    for package in "$@"; do
        is_installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0

    echo "make deps: installing$missing"
    # The services that come with these packages are not wanted: only the programs are.
    unwanted=
    for service in kea-dhcp6-server prometheus coturn tayga nsd unbound nfdump rsyslog; do
        case " $missing " in *" $service "*) unwanted="$unwanted $service" ;; esac
    done
    case " $missing " in *" bind9 "*) unwanted="$unwanted named" ;; esac
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of names
    if ! again install_packages $missing >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "could not install$missing (above: apt-get's last lines); install them by hand and repeat"
    fi
    rm -f "$log"
    if [ -n "$unwanted" ] && [ -d /run/systemd/system ]; then
        # shellcheck disable=SC2086 # a list of names
        as_root systemctl disable --quiet --now $unwanted || fail "could not stop the services$unwanted"
    fi
}

# scapy and the other Python packages of the tests, in a place of their own that `git clean` removes.
need_python() {
    requirements=deploy/test/requirements.txt
    venv=.cache/python
    cmp -s "$requirements" "$venv/installed.txt" && return 0
    echo "make deps: installing $(tr '\n' ' ' <"$requirements")into $venv"
    rm -rf "$venv"
    mkdir -p .cache
    log=$(mktemp)
    if ! { python3 -m venv "$venv" && again "$venv/bin/pip" install --quiet --requirement "$requirements"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "could not install the Python packages of $requirements (above: pip's last lines)"
    fi
    rm -f "$log"
    cp "$requirements" "$venv/installed.txt"
}

# The driver of the fuzz targets, in a place of its own unless the user has it already.
need_cargo_fuzz() {
    if command -v cargo-fuzz >/dev/null || [ -x .cache/cargo/bin/cargo-fuzz ]; then
        return 0
    fi
    echo "make deps: installing cargo-fuzz into .cache/cargo"
    log=$(mktemp)
    if ! again cargo install --quiet --locked --root .cache/cargo cargo-fuzz >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "could not install cargo-fuzz (above: cargo's last lines)"
    fi
    rm -f "$log"
}

need_rust
# shellcheck disable=SC2086 # lists of names
case "${1:-all}" in
build) need_packages $build ;;
lab) need_packages $build $lab ;;
test) need_packages $build $lab $test && need_python ;;
bench) need_packages $build $bench ;;
fuzz) need_packages $build $fuzz && need_cargo_fuzz ;;
all) need_packages $build $lab $test $bench && need_python ;;
*) fail "unknown group «$1»: build, lab, test, bench, fuzz or all" ;;
esac
