#!/usr/bin/env bash
# Prints the project's own files that match the patterns, one a line: tests/lint/files.sh '*.c' '*.h'
cd "$(dirname "$0")/../.." || exit 1
if [ -e .git ] && command -v git >/dev/null; then
    git ls-files --cached --others --exclude-standard -- "$@" | sort -u | while read -r file; do
        [ ! -e "$file" ] || echo "$file"
    done
else # an unpacked archive
    for pattern in "$@"; do
        find . -path ./build -prune -o -type f -name "$pattern" -print
    done | sed 's|^\./||' | sort -u
fi
