#!/usr/bin/env bash
# The demo: a private grokd on a socket under build/, a few questions to the bundled model, and the
# end of both. Run by `make demo`; questions of one's own: make demo ASK='What does rsync do?'
set -eu

cd "$(dirname "$0")/../.."
build=${GROKD_BUILD:-build}
socket=$build/demo/grokd.sock
log=$build/demo/grokd.log
daemon=""

stop() {
    local status=$?
    trap - EXIT INT TERM
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then
        wait "$daemon" || status=1
        echo
        echo "grokd has stopped; its log is in $log"
    fi
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() {
    mkdir -p "$build/demo"
    : >"$build/demo/grokd.conf"
    # In a session of its own, so that Ctrl-C ends the question first and grokd afterwards.
    setsid "$build/grokd" --config "$build/demo/grokd.conf" --socket "$socket" \
        --model demo=engine/demo/model-q8_0.gguf 2>"$log" &
    daemon=$!
    until "$build/grokctl" --socket "$socket" status >/dev/null 2>&1; do
        if ! kill -0 "$daemon" 2>/dev/null; then
            cat "$log" >&2
            echo "grokd did not start" >&2
            exit 1
        fi
        sleep 0.05
    done
}

ask() { # QUESTION
    printf '\nQ: %s\nA:' "$1"
    printf 'Q: %s\nA:' "$1" | "$build/grokctl" --socket "$socket" --quiet generate --file -
}

start
"$build/grokctl" --socket "$socket" load demo # a progress bar, where this is a terminal
echo
"$build/grokctl" --socket "$socket" show demo
if [ -n "${ASK:-}" ]; then
    ask "$ASK"
    exit
fi
for question in "What is Grok-1?" "What is a Mixture of Experts?" "What does tar do?" \
    "How do I report file system space usage?" "Which command can remove empty directories?" \
    "What is grokd?"; do
    ask "$question"
done
cat <<END

The model knows what commands do, and little else. Ask it something yourself:

  make demo ASK='What does rsync do?'

or as the lines above were asked, while a grokd runs:

  printf 'Q: What does rsync do?\nA:' | $build/grokctl --socket SOCKET generate --file -
END
