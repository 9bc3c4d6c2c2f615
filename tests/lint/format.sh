#!/usr/bin/env bash
# Formatting is clang-format's; scripts pass shellcheck; no reminders and no places of work remain.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
cd "$root" || exit 1

formatted() {
    tests/lint/files.sh '*.c' '*.h' | xargs clang-format --dry-run -Werror
}

scripts() { # shell scripts by name or by their first line
    tests/lint/files.sh '*.sh'
    tests/lint/files.sh '*' | while read -r file; do
        [ -x "$file" ] && head -c 32 "$file" | head -n 1 | tr -d '\0' |
            grep -qE '^#!.*\b(ba)?sh$' && echo "$file"
    done
}

shells() {
    scripts | sort -u | xargs shellcheck -x
}

absent() { # PATTERN PATTERN-OF-FILES...: prints where it is found
    local pattern=$1
    shift
    ! tests/lint/files.sh "$@" | grep -v '^tests/lint/format.sh$' | xargs grep -nIE "$pattern"
}

printf 'int  f ( void ){return 1;}\n' >"$scratch/crooked.c"
check "clang-format changes nothing" formatted
refuse "clang-format finds a crooked line" clang-format --dry-run -Werror \
    --style=file:"$root/.clang-format" "$scratch/crooked.c"
check "shellcheck finds nothing" shells
check "no reminders" absent '\b(TODO|FIXME|XXX)\b' '*.c' '*.h' '*.sh' '*.py' '*.go' '*.proto' Makefile
check "no trailing blanks" absent '[[:blank:]]+$' '*.c' '*.h' '*.sh' '*.py' '*.go' '*.md' Makefile
check "no places of work" absent '/(work|home|root)/[a-z]' '*'
finish
