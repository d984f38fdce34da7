#!/bin/sh
# Makes a Debian package of a built gate64: deploy/debian/build.sh [GATE64]; writes target/debian/gate64_VERSION_ARCH.deb.
# The package starts nothing: the configuration has to be edited first.
set -eu
cd "$(dirname "$0")/../.."
gate64=${1:-${CARGO_TARGET_DIR:-target}/release/gate64}
out=${CARGO_TARGET_DIR:-target}/debian
[ -x "$gate64" ] || { echo "build.sh: no program at $gate64: run make build" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

install -D -m 755 "$gate64" "$root/usr/bin/gate64"
strip --strip-debug "$root/usr/bin/gate64"
install -D -m 644 deploy/gate64.toml "$root/etc/gate64/gate64.toml"
install -D -m 644 deploy/systemd/gate64.service "$root/lib/systemd/system/gate64.service"
install -D -m 644 deploy/share.toml "$root/etc/gate64/share.toml"
install -D -m 644 "deploy/systemd/gate64-share@.service" "$root/lib/systemd/system/gate64-share@.service"
for file in README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE deploy/prometheus/rules/gate64.rules.yml deploy/grafana/gate64.json deploy/nic/setup.sh; do
    install -D -m "$(stat -c %a "$file")" "$file" "$root/usr/share/doc/gate64/$(basename "$file")"
done
install -D -m 644 LICENSE-MIT "$root/usr/share/doc/gate64/copyright"

mkdir "$root/DEBIAN"
printf '%s\n' /etc/gate64/gate64.toml /etc/gate64/share.toml >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<CONTROL
Package: gate64
Version: $version
Architecture: $architecture
Maintainer: The gate64 authors <gate64@example.org>
Section: net
Priority: optional
Depends: libc6, libgcc-s1, libelf1, zlib1g
Recommends: ethtool, iproute2
Description: NAT64/DNS64 gateway
 Hosts that have only IPv6 reach the IPv4 Internet, by name, through one program
 and one configuration file. Packets go through AF_XDP; DNS64 answers from the
 same process.
CONTROL
# The unit is known to systemd as soon as the package is there, and stopped before it goes.
cat >"$root/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
POSTINST
cat >"$root/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
[ "$1" != remove ] || [ ! -d /run/systemd/system ] || systemctl disable --quiet --now gate64
PRERM
cat >"$root/DEBIAN/postrm" <<'POSTRM'
#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
POSTRM
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"

mkdir -p "$out"
package=$out/gate64_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
