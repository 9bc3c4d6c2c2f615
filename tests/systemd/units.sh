#!/usr/bin/env bash
# The units as installed: systemd finds nothing wrong with them and rates their exposure 0.5 at most.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"

tree=$scratch/tree
make -s -C "$root" BUILD="$build_name" DESTDIR="$tree" PREFIX=/usr install >"$scratch/install" 2>&1 ||
    cat "$scratch/install"

verify() { # UNIT: in a tree of its own, so that this machine's units play no part
    local units=$tree/usr/lib/systemd/system
    # Our units name these; every systemd has them.
    printf '[Unit]\n' >"$units/sockets.target"
    printf '[Unit]\n' >"$units/multi-user.target"
    for target in sysinit basic shutdown; do
        printf '[Unit]\nDefaultDependencies=no\n' >"$units/$target.target"
    done
    ln -sf /dev/null "$units/-.mount" 2>/dev/null
    sed -i "s|^ExecStart=/usr/bin|ExecStart=$tree/usr/bin|" "$units/grokd.service"
    SYSTEMD_UNIT_PATH=$units systemd-analyze verify --man=no "$units/$1" 2>"$scratch/verify"
    local status=$?
    cat "$scratch/verify"
    [ "$status" = 0 ] && ! grep -q grokd "$scratch/verify"
}

exposure() {
    systemd-analyze security --offline=true --threshold="$1" "$tree/usr/lib/systemd/system/grokd.service"
}

check "grokd.service verifies" verify grokd.service
check "grokd.socket verifies" verify grokd.socket
check "exposure is 0.5 at most" exposure 5
refuse "the threshold is one that can be missed" exposure 1
check "user and group are declared" systemd-sysusers --root="$tree" \
    "$tree/usr/lib/sysusers.d/grokd.conf"
check "user grokd came out of it" grep -q '^grokd:' "$tree/etc/passwd"
check "directories are declared" systemd-tmpfiles --root="$tree" --create \
    "$tree/usr/lib/tmpfiles.d/grokd.conf"
check "the models' directory came out of it" test -d "$tree/var/lib/grokd/models"
finish
