#!/usr/bin/env bash
# What the Makefile promises: nothing is built twice, what is missing is named, and what is installed
# can be used and taken away again.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/util/tap.sh"
cd "$root" || exit 1

tree=$scratch/tree
prefix=$tree/usr/local

again() {
    make BUILD="$build_name" all tests-build >"$scratch/again"
    cat "$scratch/again"
    ! grep -qE '^ +(CC|LINK|GEN|AR) ' "$scratch/again"
}

names_what_is_missing() {
    ! PKG_CONFIG_LIBDIR=$scratch tests/deps check build >"$scratch/missing" 2>&1 &&
        grep -qE 'apt-get install .*libprotobuf-c-dev.*libsystemd-dev.*libuv1-dev' "$scratch/missing"
}

every_target_has_help() {
    local target
    make help >"$scratch/help"
    for target in demo check test asan lint format install uninstall clean; do
        grep -q "^make $target " "$scratch/help" || { echo "make $target" && return 1; }
    done
}

every_test_is_run() { # what the Makefile does not list is not built
    local source name
    while read -r source; do
        name=${source#tests/}
        grep -qE "(^|[ =])${name%.c}( |\$)" Makefile || { echo "$source" && return 1; }
    done < <(grep -l 'test_main(tests' tests/*/*.c)
}

installed() { # PATH below the prefix...
    local file
    for file; do
        [ -s "$prefix/$file" ] || { echo "$file is not there" && return 1; }
    done
}

hardened() { # FILE: what the flags in the Makefile are for
    readelf -lWd "$1" >"$scratch/elf" && grep -q 'GNU_RELRO' "$scratch/elf" &&
        grep -q 'BIND_NOW\|Flags:.*NOW' "$scratch/elf" &&
        ! grep -qE 'GNU_STACK.* RWE' "$scratch/elf" && ! grep -q 'TEXTREL' "$scratch/elf"
}

exports_only_its_own() {
    nm -D --defined-only "$prefix/lib/libgrokd.so.0" | awk '$2 != "A" && $3 !~ /^grokd_/' |
        grep . && return 1
    [ "$(nm -D --defined-only "$prefix/lib/libgrokd.so.0" | grep -c ' T grokd_')" -gt 20 ]
}

program_with_pkg_config() {
    local flags
    flags=$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$tree \
        pkg-config --cflags --libs libgrokd) || return
    # shellcheck disable=SC2086 # the flags are words
    ${CC:-cc} -Wall -Wextra -Werror -o "$scratch/ask" client/examples/ask.c $flags &&
        LD_LIBRARY_PATH=$prefix/lib GROKD_SOCKET=$scratch/none "$scratch/ask" Hello
    [ $? = 1 ] # nobody is there, and it says so
}

configuration_is_kept() {
    echo '# mine' >"$tree/etc/grokd/grokd.conf"
    make -s BUILD="$build_name" DESTDIR="$tree" install && grep -q mine "$tree/etc/grokd/grokd.conf"
}

nothing_left() {
    make -s BUILD="$build_name" DESTDIR="$tree" uninstall
    find "$tree" ! -type d ! -path '*/etc/grokd/grokd.conf' | grep . && return 1
    return 0
}

sample() { # NAME LINE...: a test that prints these and exits with the last
    mkdir -p "$scratch/b/tests"
    printf '#!/bin/sh\nprintf "%%s\\n"' >"$scratch/b/tests/$1"
    printf " '%s'" "${@:2:$#-2}" >>"$scratch/b/tests/$1"
    printf '\n%s\n' "${@: -1}" >>"$scratch/b/tests/$1"
    chmod +x "$scratch/b/tests/$1"
}

runner_counts() { # SUMMARY TEST...: what the runner's last line is for these
    local summary=$1
    shift
    tests/run --build "$scratch/b" "$@" >"$scratch/run"
    cat "$scratch/run"
    [ "$(tail -n 1 "$scratch/run")" = "$summary" ]
}

sample good "ok 1 - a" "ok 2 - b # SKIP reason" "1..2" "exit 0"
sample bad "ok 1 - a" "why" "not ok 2 - b" "1..2" "exit 1"
sample short "ok 1 - a" "1..2" "exit 0"
sample crashed "ok 1 - a" 'kill -SEGV $$'
sample status "ok 1 - a" "1..1" "exit 1"
sample empty "1..0" "exit 0"
sample skipped "1..0 # SKIP reason" "exit 0"
check "the runner adds up" runner_counts "6 passed, 5 failed, 3 skipped" \
    good bad short crashed status empty skipped good
refuse "it fails with a test" tests/run --build "$scratch/b" good bad
refuse "it fails where nothing ran" tests/run --build "$scratch/b" skipped
check "it succeeds otherwise" tests/run --build "$scratch/b" good
check "building again does nothing" again
check "missing packages are named at once" names_what_is_missing
check "every target is in make help" every_target_has_help
check "every test is run" every_test_is_run
check "make install" make -s BUILD="$build_name" DESTDIR="$tree" install
check "files are where they belong" installed bin/grokd bin/grokctl lib/libgrokd.so \
    include/grokd.h lib/pkgconfig/libgrokd.pc share/grokd/grokd.proto \
    share/grokd/model-q8_0.gguf share/man/man8/grokd.8 share/man/man5/grokd.conf.5 \
    share/man/man1/grokctl.1 share/man/man3/libgrokd.3 lib/systemd/system/grokd.service \
    lib/systemd/system/grokd.socket lib/sysusers.d/grokd.conf lib/tmpfiles.d/grokd.conf \
    share/bash-completion/completions/grokctl share/zsh/site-functions/_grokctl
check "grokd is hardened" hardened "$prefix/bin/grokd"
check "libgrokd is hardened" hardened "$prefix/lib/libgrokd.so.0"
check "libgrokd exports what starts with grokd_" exports_only_its_own
check "a program finds it with pkg-config" program_with_pkg_config
check "the installed configuration is right" "$prefix/bin/grokd" --check-config \
    --config "$tree/etc/grokd/grokd.conf"
check "one that is there is kept" configuration_is_kept
check "make uninstall leaves nothing behind" nothing_left
finish
