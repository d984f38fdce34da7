#!/bin/sh
# The Debian package holds what it should, names every library that the program is linked to, and installs into an empty
# place. $1: gate64
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
package=$(CARGO_TARGET_DIR=$work deploy/debian/build.sh "$1")

depends=$(dpkg-deb --field "$package" Depends)
for library in $(objdump -p "$1" | sed -n 's/^ *NEEDED *//p'); do
    file=$(ldconfig -p | sed -n "s/^[[:space:]]*$library (.*x86-64.*) => //p" | head -n 1)
    owner=$(dpkg-query -S "$(basename "$file")" | sed -n 's/:.*//p' | sort -u | grep -v -e -dev -e -cross | head -n 1)
    case ", $depends, " in
    *", $owner, "*) ;;
    *) echo "the program needs $library of $owner, which the package does not depend on ($depends)"; exit 1 ;;
    esac
done

dpkg-deb --extract "$package" "$work/root"
cmp deploy/gate64.toml "$work/root/etc/gate64/gate64.toml"
cmp deploy/share.toml "$work/root/etc/gate64/share.toml"
cmp "deploy/systemd/gate64-share@.service" "$work/root/lib/systemd/system/gate64-share@.service"
cmp deploy/systemd/gate64.service "$work/root/lib/systemd/system/gate64.service"
"$work/root/usr/bin/gate64" --version
started=$(sed -n 's/^ExecStart=\([^ ]*\) .*/\1/p' deploy/systemd/gate64.service)
[ -x "$work/root$started" ] || { echo "the unit starts $started, which the package does not hold"; exit 1; }
echo "package: $(basename "$package"), $(dpkg-deb --contents "$package" | wc -l) entries"
