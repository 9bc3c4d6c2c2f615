#!/usr/bin/env bash
# grokctl as a person or a script uses it: what it prints where, and what it exits with.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
# shellcheck source=tests/util/grokd.sh
. "$(dirname "$0")/../util/grokd.sh"
cd "$root" || exit 1

PROMPT=$'Q: What does tar do?\nA:'
ANSWER=" tar(1) - an archiving utility."

ctl() {
    "$build/grokctl" --socket "$socket" "$@"
}

exits() { # CODE COMMAND...
    local due=$1 status
    shift
    "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
    status=$?
    cat "$scratch/out" "$scratch/err"
    [ "$status" = "$due" ] || { echo "exit status $status" && return 1; }
}

says() { # CODE PATTERN COMMAND...: fails with one plain sentence that has the pattern
    local code=$1 pattern=$2
    shift 2
    exits "$code" "$@" && grep -q -- "$pattern" "$scratch/err" &&
        [ "$(wc -l <"$scratch/err")" = 1 ] && [ ! -s "$scratch/out" ]
}

prompts_agree() {
    printf '%s' "$PROMPT" >"$scratch/prompt"
    [ "$(ctl -q generate "$PROMPT")" = "$ANSWER" ] &&
        [ "$(ctl -q generate --file "$scratch/prompt")" = "$ANSWER" ] &&
        [ "$(ctl -q generate --file - <"$scratch/prompt")" = "$ANSWER" ] &&
        [ "$(ctl -q generate <"$scratch/prompt")" = "$ANSWER" ]
}

figures_can_be_hidden() {
    ctl generate "$PROMPT" >"$scratch/out" 2>"$scratch/err" && grep -q '[0-9]/s' "$scratch/err" &&
        ctl --quiet generate "$PROMPT" 2>"$scratch/err" && [ ! -s "$scratch/err" ]
}

all_json() { # COMMAND...: every line of its output is a JSON object
    ctl --json "$@" >"$scratch/json" || return 1
    cat "$scratch/json"
    /usr/bin/python3 -c '
import json, sys
lines = [json.loads(line) for line in sys.stdin]
sys.exit(not lines or not all(isinstance(line, dict) for line in lines))' <"$scratch/json"
}

json_failure() {
    ctl --json generate -m nobody Hello >"$scratch/json" 2>"$scratch/err"
    [ $? = 1 ] && /usr/bin/python3 -c '
import json, sys
error = json.loads(sys.stdin.readlines()[-1])["error"]
sys.exit(error["code"] != "NOT_FOUND" or "nobody" not in error["message"])' <"$scratch/json"
}

memory_is_shown() { # in the units of the log
    local resident
    ctl show | tee "$scratch/out"
    ctl status | tee -a "$scratch/out"
    resident=$(sed -n 's/.* MB mapped, \([0-9.]* MB\) resident, .*/\1/p' "$grokd_log")
    grep -qx "in memory when loaded * $resident, 0 B locked, [0-9.]* k*M*B in huge pages" "$scratch/out" &&
        grep -qx 'NUMA nodes * [1-9][0-9]*' "$scratch/out" &&
        grep -qx 'KV cache type * f16' "$scratch/out" &&
        grep -q '^memory .* f16 KV pages in use$' "$scratch/out"
}

there_and_back() {
    local text="Tea for two,  and two for tea."
    [ "$(ctl tokenize "$text" | ctl detokenize)" = "$text" ]
}

no_bar_in_a_pipe() {
    ctl load demo >"$scratch/out" 2>"$scratch/err" && ! grep -q $'\r' "$scratch/out" "$scratch/err"
}

long_prompt() { # FIRST: no two calls share a prefix that could be cached
    seq -s ' ' "$1" $(($1 + 1600))
}

bar_on_a_terminal() { # while a prompt is processed, and gone before the text
    long_prompt 300 >"$scratch/prompt"
    "$(command -v python3)" - "$build/grokctl" --socket "$socket" generate --tokens --max-tokens 4 \
        --file "$scratch/prompt" >"$scratch/terminal" <<'END' || return 1
import pty, sys
sys.exit(pty.spawn(sys.argv[1:]))
END
    grep -q 'reading the prompt \[#.*\] [0-9]* of 1601 tokens' "$scratch/terminal" &&
        grep -q $'\r\033\[K' "$scratch/terminal" && grep -q 'prompt tokens in' "$scratch/terminal"
}

no_bar_for_a_prompt_in_a_pipe() {
    long_prompt 301 >"$scratch/prompt"
    ctl generate --tokens --max-tokens 4 --file "$scratch/prompt" >"$scratch/out" 2>"$scratch/err" &&
        ! grep -q $'\r' "$scratch/out" "$scratch/err"
}

constrained() { # to a schema: as text, and in a file; an expression; a grammar
    local schema='{"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}'
    echo "$schema" >"$scratch/schema.json"
    printf '%s\n' 'root ::= "- " [a-c]{2} "\n"' >"$scratch/list.gbnf"
    ctl -q generate --json-schema "$schema" "$PROMPT" | tr -d ' \n' | grep -qx '{"a":"[xy]"}' &&
        ctl -q generate --json-schema "$scratch/schema.json" "$PROMPT" | tr -d ' \n' |
        grep -qx '{"a":"[xy]"}' &&
        ctl -q generate --regex 'no|maybe' "$PROMPT" | grep -qxE 'no|maybe' &&
        ctl -q generate --grammar "$scratch/list.gbnf" "$PROMPT" | grep -qx -- '- [a-c][a-c]'
}

# What an application would ask for: valid by another's word, its names in the order of the schema.
structured() {
    cat >"$scratch/invoice.json" <<'END'
{"type": "object", "additionalProperties": false, "required": ["kind", "lines", "note"],
 "properties": {"kind": {"enum": ["invoice", "order"]},
                "lines": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"$ref": "#/$defs/line"}},
                "note": {"type": ["string", "null"], "maxLength": 20}},
 "$defs": {"line": {"type": "object", "additionalProperties": false, "required": ["id", "count", "price"],
     "properties": {"id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
                    "count": {"type": "integer", "minimum": 1, "maximum": 99},
                    "price": {"oneOf": [{"type": "number", "minimum": 0, "maximum": 1000}, {"type": "null"}]}}}}}
END
    for seed in 1 2 3; do
        ctl -q generate --json-schema "$scratch/invoice.json" --seed "$seed" --temperature 1 --max-tokens 400 \
            "$PROMPT" >"$scratch/invoice.out" && /usr/bin/python3 - "$scratch/invoice.json" "$scratch/invoice.out" <<'END' || return
import json, sys
import jsonschema
schema, value = (json.load(open(path)) for path in sys.argv[1:])
jsonschema.Draft202012Validator(schema).validate(value)
assert list(value) == list(schema["properties"]), value
END
    done
}

vectors() { # a line each: of arguments, of lines, in JSON
    printf 'one\n\ntwo\n' >"$scratch/lines"
    [ "$(ctl embed one two | awk '{ print NF }')" = $'256\n256' ] &&
        [ "$(ctl embed one two)" = "$(ctl embed --lines --file "$scratch/lines")" ] &&
        [ "$(ctl embed --pooling last "$PROMPT")" != "$(ctl embed "$PROMPT")" ] &&
        ctl --json embed --no-normalize one | python3 -c 'import json, sys
a = json.load(sys.stdin)
assert len(a["embeddings"][0]) == 256 and a["usage"]["prompt_tokens"] == a["tokens"][0]'
}

priorities() {
    local class
    for class in interactive normal batch; do
        [ "$(ctl -q generate --priority "$class" "$PROMPT")" = "$ANSWER" ] || return 1
        ctl score --priority "$class" "$PROMPT" >/dev/null || return 1
    done
}

interrupt() { # Ctrl-C ends the request in the daemon, says what it cost, and exits with 130
    local pid status=0
    rm -f "$scratch/out"
    "$build/grokctl" --socket "$socket" generate --max-tokens 4000 --ignore-eos "$PROMPT" \
        >"$scratch/out" 2>"$scratch/err" &
    pid=$!
    until [ -s "$scratch/out" ]; do
        kill -0 "$pid" || return 1
        sleep 0.01
    done
    kill -INT "$pid"
    wait "$pid"
    status=$?
    cat "$scratch/err"
    [ "$status" = 130 ] && grep -q generated "$scratch/err" && nothing_runs
}

top_on_a_screen() { # ncurses on a terminal of its own; q leaves it with 0
    (
        sleep 0.5
        printf 'uhq'
    ) | TERM=xterm timeout 20 script -qec "'$build/grokctl' --socket '$socket' top -i 0.2" /dev/null \
        >"$scratch/out" || return 1
    grep -q 'USER/ACTOR' "$scratch/out" && grep -q 'Sort users' "$scratch/out"
}

top_in_json() {
    ctl top --once --json | python3 -c '
import json, os, sys
top = json.load(sys.stdin)
own = [a for a in top["accounts"] if a["uid"] == os.getuid() and a["actor"] == ""]
assert own[0]["connections"] == 1 and top["requests"] == [] and top["models"][0]["name"] == "demo"'
}

top_as_table() {
    ctl top --once | grep -q '^USER/ACTOR .*TOKENS/S$' && ctl top --once | grep -q "^$(id -un) "
}

nothing_runs() {
    ctl --json status | grep -q '"requests_running":0'
}

cancel_by_id() {
    rm -f "$scratch/out"
    ctl generate --max-tokens 4000 --ignore-eos --request-id mine "$PROMPT" >"$scratch/out" \
        2>"$scratch/err" &
    local pid=$!
    until [ -s "$scratch/out" ]; do
        kill -0 "$pid" || return 1
        sleep 0.01
    done
    ctl cancel mine || return 1
    wait "$pid"
    [ $? = 1 ] && grep -qi cancel "$scratch/err"
}

logprobs_table() {
    ctl -q generate --logprobs 3 --max-tokens 4 "$PROMPT" >"$scratch/out" && cat "$scratch/out" &&
        [ "$(wc -l <"$scratch/out")" -ge 4 ] && grep -q -- '-[0-9]' "$scratch/out"
}

check "nobody there" says 3 "$socket" ctl status
check "grokd starts" start_grokd --model demo=engine/demo/model-q8_0.gguf
check "a prompt comes as argument, file or standard input" prompts_agree
check "figures go to standard error, if wanted" figures_can_be_hidden
for command in status models "show" "show demo" "load demo" "tokenize Hello" "detokenize 310 4035" \
    "score Hello there" "generate --max-tokens 3 Hello"; do
    # shellcheck disable=SC2086 # words
    check "$command in JSON" all_json $command
done
check "a failure in JSON" json_failure
check "memory and the KV cache's type are shown" memory_is_shown
check "tokens there and back" there_and_back
check "log-probabilities as a table" logprobs_table
check "no progress bar in a pipe" no_bar_in_a_pipe
check "no bar for a prompt in a pipe" no_bar_for_a_prompt_in_a_pipe
if python3 -c 'import pty; pty.openpty()' 2>/dev/null; then
    check "a bar for a prompt on a terminal" bar_on_a_terminal
    check "top on a screen" top_on_a_screen
else
    skip "a bar for a prompt on a terminal" "there are no pseudo-terminals here"
    skip "top on a screen" "there are no pseudo-terminals here"
fi
check "priorities" priorities
check "constraints" constrained
check "constraints of applications" structured
check "a constraint that is wrong" says 1 'byte 1' ctl generate --regex 'a(b' Hello
check "a schema that is wrong" says 1 "#/items/properties/a: the keyword 'not'" \
    ctl generate --json-schema '{"items": {"properties": {"a": {"not": {}}}}}' Hello
printf 'root ::= item\nitem ::= [a-\n' >"$scratch/wrong.gbnf"
check "a grammar that is wrong" says 1 'line 2, column 10: the character set is not closed' ctl generate --grammar "$scratch/wrong.gbnf" Hello
check "two constraints" says 2 'only one' ctl generate --regex a --grammar "$scratch/list.gbnf" Hello
check "vectors" vectors
check "an unknown pooling" says 2 'mean or last' ctl embed --pooling most Hello
check "an unknown priority" says 2 'interactive, normal or batch' ctl generate --priority high Hello
check "an unknown model" says 1 nobody ctl generate -m nobody Hello
check "a bad parameter" says 1 temperature ctl generate --temperature -1 Hello
check "an unknown command" says 2 frobnicate ctl frobnicate
check "an option without its number" says 2 max-tokens ctl generate --max-tokens many Hello
check "a file that is not there" says 2 "$scratch/nothing" ctl generate --file "$scratch/nothing"
check "top in JSON" top_in_json
check "top as a table" top_as_table
check "top without a terminal" says 2 "--once" ctl top
check "top too often" exits 2 ctl top --once -i 0.01
check "an actor of one's own" ctl -q generate --actor "night shift" "$PROMPT"
check "an actor that can't be" says 1 "actor" ctl -q generate --actor $'a\tb' "$PROMPT"
check "a full disk" exits 4 sh -c "'$build/grokctl' --socket '$socket' status >/dev/full"
check "Ctrl-C" interrupt
check "cancel" cancel_by_id
check "cancel of what does not run" exits 1 ctl cancel nothing
check "--help and --version" eval 'exits 0 ctl --help && exits 0 ctl --version'
check "grokd stops" stop_grokd
finish
