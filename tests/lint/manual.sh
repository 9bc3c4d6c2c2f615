#!/usr/bin/env bash
# Manual pages are well formed, and every option and every configuration key has its line in one.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
cd "$root" || exit 1

page() { # FILE: as text
    mandoc -T ascii "$1" | col -b
}

options() { # the long options that some --help lists
    grep -oE -- '(^|[ ,[])--[a-z][a-z0-9-]*' | tr -d ' ,['
}

documented() { # PAGE WORD...: each word stands in the page
    local text word status=0
    text=$(page "$1")
    shift
    [ $# -gt 0 ] || { echo "nothing to look for" && return 1; }
    for word in "$@"; do
        grep -qE -- "(^|[^a-z_-])$word([^a-z0-9_-]|\$)" <<<"$text" || {
            echo "$word is not in the page"
            status=1
        }
    done
    return "$status"
}

commands() {
    "$build/grokctl" --help | awk '/^Commands:/ { on = 1; next } /^$/ { on = 0 } on { print $1 }'
}

sample_is_whole() { # but for the keys of [model NAME]
    "$build/grokd" --print-config | sed '/^\[model NAME\]/,$d' | grep -E '^(#[a-z_]+ = |\[)' |
        while read -r line; do
            grep -qxF "$line" systemd/grokd.conf || { echo "$line" && return 1; }
        done
}

for file in man/*.[1-8]; do
    check "$file is well formed" mandoc -T lint -W error "$file"
done

mapfile -t words < <("$build/grokd" --help | options)
check "grokd(8) has every option" documented man/grokd.8 "${words[@]}"
mapfile -t words < <("$build/grokd" --print-config | sed -nE 's/^#([a-z_]+) = .*/\1/p' | sort -u)
check "grokd.conf(5) has every key" documented man/grokd.conf.5 "${words[@]}"
check "the sample configuration has every key, and the defaults" sample_is_whole
mapfile -t words < <(commands)
check "grokctl(1) has every command" documented man/grokctl.1 "${words[@]}"
mapfile -t words < <({
    "$build/grokctl" --help
    for command in "${words[@]}"; do "$build/grokctl" "$command" --help; done
} | options | sort -u)
check "grokctl(1) has every option" documented man/grokctl.1 "${words[@]}"
mapfile -t words < <(tests/lint/files.sh 'client/grokd.h' | xargs grep -hoE '\bgrokd_[a-z_]+\(' |
    tr -d '(' | sort -u)
check "libgrokd(3) has every function" documented man/libgrokd.3 "${words[@]}"
refuse "an option without its line is found" documented man/grokctl.1 --no-such-option
finish
