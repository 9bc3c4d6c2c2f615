#!/usr/bin/env bash
# The Python example, and raw frames that no decent client sends.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
# shellcheck source=tests/util/grokd.sh
. "$(dirname "$0")/../util/grokd.sh"

export PYTHONPATH=$scratch PYTHONDONTWRITEBYTECODE=1

example() {
    [ "$("$root/client/examples/ask.py" "$socket" "What does tar do?")" = \
        " tar(1) - an archiving utility." ]
}

check "messages are generated" protoc -I "$root/proto" --python_out="$scratch" \
    grokd.proto ttrpc.proto
check "grokd starts" start_grokd
check "the example prints the answer" example
run_tap /usr/bin/python3 "$root/tests/interop/abuse.py" "$socket" "$grokd_pid"
check "grokd stops" stop_grokd
finish
