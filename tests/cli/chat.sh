#!/usr/bin/env bash
# grokctl chat: turns from standard input, files of conversations, and a terminal with a person's keys.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
# shellcheck source=tests/util/grokd.sh
. "$(dirname "$0")/../util/grokd.sh"
cd "$root" || exit 1

QUESTION="What does tar do?"
ANSWER="tar(1) - an archiving utility."
export XDG_STATE_HOME=$scratch/state

chat() { # OPTION...: with the turns on standard input
    "$build/grokctl" --quiet --socket "$socket" chat "$@" 2>"$scratch/err"
}

says() { # CODE PATTERN INPUT OPTION...: one sentence with the pattern
    local code=$1 pattern=$2 input=$3 status
    shift 3
    printf '%s\n' "$input" | chat "$@" >"$scratch/out"
    status=$?
    cat "$scratch/out" "$scratch/err"
    [ "$status" = "$code" ] && grep -q -- "$pattern" "$scratch/err" &&
        [ "$(wc -l <"$scratch/err")" = 1 ]
}

a_line_is_a_turn() {
    printf '%s\n\n/clear\n%s' "$QUESTION" "$QUESTION" | chat >"$scratch/out" &&
        [ "$(cat "$scratch/out")" = "$ANSWER"$'\n'"$ANSWER" ]
}

figures() {
    echo "$QUESTION" | "$build/grokctl" --socket "$socket" chat >"$scratch/out" 2>"$scratch/err" &&
        grep -Eq '^\[12 tokens, [0-9.]+/s; prompt 10, [0-9]+ of them cached' "$scratch/err" &&
        ! grep -q $'\033' "$scratch/err" "$scratch/out"
}

turns_of_several_lines() {
    printf 'a \\\nb\n"""\nc\nd"""\n/undo\n//e\n/history\n' | chat --max-tokens 1 >"$scratch/out" || return 1
    cat "$scratch/out"
    grep -qx 'user: a ' "$scratch/out" && ! grep -qx 'd' "$scratch/out" && grep -qx 'user: /e' "$scratch/out"
}

commands() {
    printf '/system Be brief.\n%s\n/retry\n/undo\n%s\n/system\n/history\n' "$QUESTION" "$QUESTION" |
        chat >"$scratch/out" || return 1
    cat "$scratch/out"
    [ "$(grep -c '^user: ' "$scratch/out")" = 1 ] && grep -qx 'system: Be brief.' "$scratch/out" &&
        grep -qx 'Be brief.' "$scratch/out"
}

options_are_set() {
    printf '/set temperature 0.25\n/set max_tokens 3\n/set stop utility\n/set ignore-eos\n/set\n/set max-tokens default\n/set max-tokens\n/set stop default\n/set stop\n' |
        chat --top-k 7 >"$scratch/out" || return 1
    cat "$scratch/out"
    grep -qx 'temperature  *0.25' "$scratch/out" && grep -qx 'max-tokens  *3' "$scratch/out" &&
        grep -qx "stop  *'utility'" "$scratch/out" && grep -qx 'ignore-eos  *yes' "$scratch/out" &&
        grep -qx 'top-k  *7' "$scratch/out" && grep -qx 'max-tokens  *(default)' "$scratch/out" &&
        grep -qx 'stop  *(none)' "$scratch/out" && [ "$(wc -l <"$scratch/out")" -gt 15 ]
}

options_count() {
    [ "$(echo "$QUESTION" | chat --stop archiving)" = "tar(1) - an " ] &&
        [ "$(printf '/set stop archiving\n%s\n' "$QUESTION" | chat)" = "tar(1) - an " ]
}

templates_by_name() { # "plain" asks in another form: the prompt has other tokens
    echo "$QUESTION" | chat --json --template plain --max-tokens 2 >"$scratch/json" &&
        ! grep -q '"prompt_tokens":10,' "$scratch/json"
}

saved_and_loaded() {
    local file=$scratch/conversation.json
    printf '/system Be brief.\n%s\n/save %s\n' "$QUESTION" "$file" | chat || return 1
    /usr/bin/python3 - "$file" "$QUESTION" "$ANSWER" <<'END' || return 1
import json, sys
c = json.load(open(sys.argv[1]))
assert c["version"] == 1 and c["messages"] == [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": sys.argv[2]},
    {"role": "assistant", "content": sys.argv[3]}], c
END
    [ "$(stat -c %a "$file")" = 600 ] &&
        printf '/history\n' | chat --load "$file" >"$scratch/out" && cat "$scratch/out" &&
        [ "$(sed -n 3p "$scratch/out")" = "assistant: $ANSWER" ] &&
        printf '/load %s\n/retry\n' "$file" | chat >"$scratch/again" &&
        printf '[{"role":"user","content":"%s"}]' "$QUESTION" >"$file" &&
        [ "$(printf '/retry\n' | chat --load "$file")" = "$ANSWER" ]
}

bad_files() {
    local file=$scratch/bad.json text
    for text in '{' '5' '{"messages":5}' '{"version":2,"messages":[]}' '[{"role":"user"}]' \
        '[{"role":"user","content":5}]' '[{"role":"user","content":"a\u0000b"}]'; do
        echo "$text" >"$file"
        says 2 "bad.json" "" --load "$file" || return 1
    done
}

in_json() {
    printf '%s\n%s\n' "$QUESTION" "$QUESTION" | chat --json >"$scratch/json" || return 1
    /usr/bin/python3 - "$scratch/json" "$ANSWER" <<'END'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert len(lines) == 2 and lines[0]["content"] == sys.argv[2] and lines[0]["role"] == "assistant"
assert lines[0]["finish_reason"] == "stop" and lines[0]["usage"]["generated_tokens"] == 12
END
}

at_a_terminal() {
    "$(command -v python3)" tests/cli/chat.py "$build/grokctl" --socket "$socket" chat &&
        nothing_runs && [ "$(stat -c %a "$XDG_STATE_HOME/grokd/history")" = 600 ]
}

nothing_runs() {
    "$build/grokctl" --socket "$socket" --json status | grep -q '"requests_running":0'
}

check "nobody there" says 3 "$socket" Hello
check "grokd starts" start_grokd --model demo=engine/demo/model-q8_0.gguf
check "a line is a turn" a_line_is_a_turn
check "figures, without colour in a pipe" figures
check "turns of several lines" turns_of_several_lines
check "commands" commands
check "options are set" options_are_set
check "options count" options_count
check "templates by name" templates_by_name
check "saved and loaded" saved_and_loaded
check "files that are no conversations" bad_files
check "in JSON" in_json
check "an unknown command" says 2 'no command /nothing' /nothing
check "an unknown option" says 2 "no option 'heat'" '/set heat 1'
check "a bad value" says 2 'takes a number' '/set temperature warm'
check "a bad answer to yes or no" says 2 "takes yes or no, not 'maybe'" '/set ignore-eos maybe'
check "a bad priority" says 2 'interactive, normal or batch' '/set priority high'
check "nothing to undo" says 2 'nothing to undo' /undo
check "nothing to answer again" says 2 'nothing to answer' /retry
check "a file that is not there" says 2 nowhere '/load /nowhere'
check "a directory that is not there" says 2 nowhere '/save /nowhere/x'
check "an unknown template" says 1 "no chat template 'nothing'" Hello --template nothing
check "a template that refuses" says 1 'refuses the conversation: no' Hello --template \
    "{{ raise_exception('no') }}"
check "an argument" says 2 Hello "" Hello
check "an unknown model" says 1 nobody Hello -m nobody
check "a terminal: editing, history, Ctrl-C, Ctrl-D" at_a_terminal
check "grokd stops" stop_grokd
finish
