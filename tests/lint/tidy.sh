#!/usr/bin/env bash
# clang-tidy with the short fatal list of .clang-tidy, on every source that is built.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
cd "$root" || exit 1

make -s BUILD="$build_name" generated
make -Bn V=1 BUILD="$build_name" all tests-build 2>/dev/null | tests/lint/compile-commands.py "$root" \
    >"$build/compile_commands.json"

finds_null_dereference() {
    cp .clang-tidy "$scratch"
    printf 'int f(const int *p);\nint f(const int *p) {\n    return p ? 0 : *p;\n}\n' \
        >"$scratch/bad.c"
    ! clang-tidy --quiet "$scratch/bad.c" -- >"$scratch/bad.out" 2>&1 &&
        grep -q 'NullDereference' "$scratch/bad.out"
}

# Both CPUs at work: each source's findings go to a file, reported below in order.
tidy_all() {
    printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} sh -c "
        out=$scratch/out/\$(echo {} | tr / _)
        clang-tidy --quiet -p $build {} >\$out 2>/dev/null || touch \$out.bad"
}

report() { # FILE
    local out
    out=$scratch/out/$(echo "$1" | tr / _)
    cat "$out"
    [ ! -e "$out.bad" ]
}

check "a null dereference is found" finds_null_dereference
mapfile -t sources < <(sed -n 's/^ *"file": "\(.*\)",*$/\1/p' "$build/compile_commands.json" | sort)
mkdir "$scratch/out"
tidy_all "${sources[@]}"
for source in "${sources[@]}"; do
    check "$source" report "$source"
done
finish
