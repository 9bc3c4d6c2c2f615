#!/usr/bin/env bash
# libgrokd as programs meet it: what it exports, the header in other languages, the manual page's
# example.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"

export header=$root/client/grokd.h manual=$root/man/libgrokd.3

declared() {
    grep -oE '\bgrokd_[a-z_]+\(' "$header" | tr -d '(' | sort -u
}

exported() {
    nm -D --defined-only "$build/libgrokd.so" | awk '$2 == "T" { sub(/@.*/, "", $3); print $3 }' |
        sort -u
}

same_symbols() {
    [ "$(declared | wc -l)" -gt 30 ] && diff <(declared) <(exported)
}

listed_symbols() {
    diff <(declared) <(grep -oE 'grokd_[a-z_]+' "$root/client/libgrokd.sym" | sort -u)
}

# It loads protobuf-c and the C library (and a sanitizer's), nothing else.
needs_little() {
    ! readelf -d "$build/libgrokd.so" | grep NEEDED |
        grep -vE 'libprotobuf-c|libc\.|libm\.|libpthread|ld-linux|libasan|libubsan|libgcc_s'
}

versioned() {
    readelf -d "$build/libgrokd.so" | grep -q 'SONAME.*libgrokd.so.0'
}

documented() {
    local name missing=0

    while read -r name; do
        grep -q "BR $name ()" "$manual" || {
            echo "$name is not in the manual page"
            missing=1
        }
    done < <(declared)
    return "$missing"
}

parses() { # COMPILER LANGUAGE STANDARD
    "$1" -x "$2" "-std=$3" -pedantic -Wall -Wextra -Werror -fsyntax-only "$header"
}

example() {
    sed -n '/^\.EX/,/^\.EE/p' "$manual" | sed '1d;$d;s/^\\&//;s/\\-/-/g;s/\\e/\\/g'
}

same_example() {
    example >"$scratch/example.c"
    diff "$scratch/example.c" "$root/client/examples/ask.c"
}

example_compiles() {
    local sanitize=()

    nm -D "$build/libgrokd.so" | grep -q __asan_init &&
        sanitize=("-fsanitize=address,undefined")
    mkdir -p "$scratch/include" && cp "$header" "$scratch/include" &&
        "${CC:-cc}" -std=c99 -pedantic -Wall -Wextra -Werror "${sanitize[@]}" \
            -I"$scratch/include" -o "$scratch/example" "$scratch/example.c" \
            -L"$build" -lgrokd -Wl,-rpath,"$build"
}

# Without a daemon: a sentence, and exit status 1.
example_runs() {
    local status=0

    GROKD_SOCKET=$scratch/none "$scratch/example" hello >"$scratch/said" 2>&1 || status=$?
    [ "$status" = 1 ] && grep -q "$scratch/none: No such file.*is grokd running" "$scratch/said"
}

check "the library exports what the header declares" same_symbols
check "the version script lists the same" listed_symbols
check "the library needs little" needs_little
check "the soname is versioned" versioned
check "the manual page names every function" documented
check "the header is C99" parses "${CC:-cc}" c c99
if command -v c++ >/dev/null; then
    check "the header is C++" parses c++ c++ c++11
else
    skip "the header is C++" "there is no c++ here"
fi
check "the manual page's example is client/examples/ask.c" same_example
check "the example compiles" example_compiles
check "the example says why it can't connect" example_runs
finish
