#!/usr/bin/env bash
# Each header compiles alone; the public one also as plain C99 and as C++.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
cd "$root" || exit 1

make -s BUILD="$build_name" generated
flags=$(make -s BUILD="$build_name" flags)

alone() { # HEADER FLAG...
    local header=$1
    shift
    printf '#include "%s"\n' "$header" >"$scratch/alone.c"
    ${CC:-cc} "$@" -I. -fsyntax-only "$scratch/alone.c"
}

for header in $(tests/lint/files.sh '*.h'); do
    case $header in # these are included where the instruction set is chosen
    engine/kern/*) isa=-march=sapphirerapids ;;
    *) isa= ;;
    esac
    # shellcheck disable=SC2086 # the flags are words
    check "$header compiles alone" alone "$header" $flags $isa
done
if [ -e client/grokd.h ]; then
    check "client/grokd.h is C99" alone client/grokd.h -std=c99 -Wall -Wextra -Werror -pedantic
    # clang-tidy is a C++ compiler enough for this, and is here.
    printf '#include "client/grokd.h"\n' >"$scratch/alone.cc"
    check "client/grokd.h is C++" clang-tidy --quiet --checks='-*,clang-diagnostic-*,misc-definitions-in-headers' \
        --warnings-as-errors='*' "$scratch/alone.cc" -- -I. -Wall -Wextra
fi
printf '#pragma once\nsize_t f(void);\n' >"$scratch/needs-stddef.h"
refuse "a header that needs another's include is found" alone "$scratch/needs-stddef.h" -Werror
finish
