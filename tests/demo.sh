#!/usr/bin/env bash
# make demo answers what the reference answers, and leaves nothing running, also when interrupted.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/util/tap.sh"
cd "$root" || exit 1
export GROKD_BUILD=$build
log=$build/demo/grokd.log

reference_answers() { # every "Q:" is followed by its line of answers.tsv
    engine/demo/run.sh >"$scratch/out" 2>&1 || { cat "$scratch/out" && return 1; }
    cat "$scratch/out"
    awk -F '\t' '
        FNR == NR { answer[$1] = $2; next }
        /^Q: / { question = substr($0, 4); next }
        /^A: / && question != "" {
            n++
            if (substr($0, 4) != answer[question]) { print "not the reference: " $0; bad = 1 }
            question = ""
        }
        END { exit bad || n < 5 }' engine/demo/answers.tsv "$scratch/out"
}

own_question() {
    ASK="What does rsync do?" engine/demo/run.sh | tee "$scratch/out" |
        grep -qF 'A: rsync(1) - a fast, versatile, local/remote file-copying tool.'
}

nothing_left() {
    ! [ -S "$build/demo/grokd.sock" ] && ! pgrep -f "$build/demo/grokd.conf"
}

interrupted() { # as Ctrl-C does it: the whole group gets the signal
    local pid status
    # Where this is no terminal's foreground, SIGINT comes ignored.
    setsid /usr/bin/python3 -c '
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv("engine/demo/run.sh", ["run.sh"])' >"$scratch/out" 2>&1 &
    pid=$!
    until grep -q '^Q: ' "$scratch/out" 2>/dev/null; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.01
    done
    kill -INT -- "-$pid"
    wait "$pid"
    status=$?
    cat "$scratch/out"
    echo "exit status $status"
    [ "$status" = 130 ] && nothing_left
}

says_why_it_fails() { # the socket's place is taken by a file
    mkdir -p "$build/demo"
    rm -rf "$build/demo/grokd.sock"
    echo precious >"$build/demo/grokd.sock"
    ! timeout 60 engine/demo/run.sh >"$scratch/out" 2>&1 && grep -q "grokd.sock" "$scratch/out" &&
        grep -q precious "$build/demo/grokd.sock"
    local status=$?
    cat "$scratch/out"
    rm -f "$build/demo/grokd.sock"
    return "$status"
}

check "the answers are the reference's" reference_answers
check "nothing is left running" nothing_left
check "the log says that it ended" grep -qx 'grokd: ended' "$log"
check "one's own question" own_question
check "interrupted, it stops its grokd" interrupted
check "it says why it can't" says_why_it_fails
finish
