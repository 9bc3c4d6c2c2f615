# shellcheck shell=bash
# TAP for test scripts: source it, call check and skip, end with finish.
#
# Gives: $root (the sources), $build (what is tested), $scratch (a directory that goes away).
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export build=${GROKD_BUILD:-$root/build}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/grokd-test.XXXXXX")
# As make knows it, so that nothing is compiled again.
export build_name=${build#"$root"/}
n_tests=0
n_failed=0
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM

check() { # NAME COMMAND...: passes where the command succeeds; shows its output where not
    local name=$1
    shift
    n_tests=$((n_tests + 1))
    if "$@" >"$scratch/.output" 2>&1; then
        echo "ok $n_tests - $name"
    else
        n_failed=$((n_failed + 1))
        cat "$scratch/.output"
        echo "not ok $n_tests - $name # $*"
    fi
}

refuse() { # NAME COMMAND...: passes where the command fails
    local name=$1
    shift
    n_tests=$((n_tests + 1))
    if "$@" >"$scratch/.output" 2>&1; then
        n_failed=$((n_failed + 1))
        cat "$scratch/.output"
        echo "not ok $n_tests - $name # succeeded: $*"
    else
        echo "ok $n_tests - $name"
    fi
}

skip() { # NAME REASON
    n_tests=$((n_tests + 1))
    echo "ok $n_tests - $1 # SKIP $2"
}

run_tap() { # PROGRAM...: its tests are counted as this script's
    "$@" >"$scratch/.tap" 2>&1 || n_failed=$((n_failed + 1))
    grep -v '^1\.\.' "$scratch/.tap"
    n_tests=$((n_tests + $(grep -cE '^(not )?ok ' "$scratch/.tap")))
    check "$(basename "$1") ran to its end" grep -q '^1\.\.' "$scratch/.tap"
}

finish() {
    echo "1..$n_tests"
    [ "$n_failed" = 0 ]
    exit
}
