#!/usr/bin/env bash
# The units as installed: systemd finds nothing wrong with them and rates their exposure 0.5 at most.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"

tree=$scratch/tree
mkdir -p "$tree/etc"
make -s -C "$root" BUILD="$build_name" DESTDIR="$tree" install >"$scratch/install" 2>&1 ||
    cat "$scratch/install"

# A unit path of its own, so that this machine's units play no part; ours name these targets.
units=$scratch/units
mkdir "$units"
cp "$tree"/usr/local/lib/systemd/system/grokd.* "$units"
sed -i "s|^ExecStart=|&$tree|" "$units/grokd.service"
for target in sockets multi-user sysinit basic shutdown; do
    printf '[Unit]\nDefaultDependencies=no\n' >"$units/$target.target"
done

verify() { # UNIT
    SYSTEMD_UNIT_PATH=$units systemd-analyze verify --man=no "$units/$1" >"$scratch/verify" 2>&1
    local status=$?
    cat "$scratch/verify"
    [ "$status" = 0 ] && ! grep -q grokd "$scratch/verify"
}

misspelt() {
    sed 's/^WatchdogSec=/WatchdgSec=/' "$units/grokd.service" >"$units/misspelt.service"
    verify misspelt.service && ! grep -q misspelt "$scratch/verify"
}

exposure() {
    systemd-analyze security --offline=true --threshold="$1" "$units/grokd.service"
}

check "grokd.service verifies" verify grokd.service
check "grokd.socket verifies" verify grokd.socket
refuse "a misspelt setting is found" misspelt
check "exposure is 0.5 at most" exposure 5
refuse "the threshold is one that can be missed" exposure 1
check "user and group are declared" systemd-sysusers --root="$tree" \
    "$tree/usr/local/lib/sysusers.d/grokd.conf"
check "user grokd came out of it" grep -q '^grokd:' "$tree/etc/passwd"
check "directories are declared" systemd-tmpfiles --root="$tree" --create \
    "$tree/usr/local/lib/tmpfiles.d/grokd.conf"
check "the models' directory came out of it" test -d "$tree/var/lib/grokd/models"
finish
