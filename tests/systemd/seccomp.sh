#!/usr/bin/env bash
# Every system call that a working grokd makes is one that its unit allows.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
# shellcheck source=tests/util/grokd.sh
. "$(dirname "$0")/../util/grokd.sh"

strace -o "$scratch/probe" true 2>/dev/null || {
    echo "1..0 # SKIP nothing may be traced here"
    exit 0
}

work() {
    local ctl=("$build/grokctl" --socket "$socket")
    "${ctl[@]}" load demo && "${ctl[@]}" generate --max-tokens 20 Hello &&
        "${ctl[@]}" score 'Hello there' && "${ctl[@]}" unload demo
}

kept() {
    [ -s "$scratch/state/demo.kv" ]
}

printf '[engine]\nprefix_state = %s\n' "$scratch/state" >"$scratch/state.conf"
grokd_under=(strace -D -f -qq -o "$scratch/trace" --signal=none)
check "grokd starts" start_grokd --config "$scratch/state.conf" --model demo="$root/engine/demo/model-q8_0.gguf"
check "grokd works" work
check "its prefix cache was kept" kept
check "grokd works again" work
check "grokd stops" stop_grokd
check "its system calls are allowed" "$root/tests/systemd/syscalls.py" \
    "$root/systemd/grokd.service" "$scratch/trace"
echo 'reboot(0) = 0' >>"$scratch/trace"
refuse "one that is not allowed is found" "$root/tests/systemd/syscalls.py" \
    "$root/systemd/grokd.service" "$scratch/trace"
finish
