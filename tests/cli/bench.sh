#!/usr/bin/env bash
# The programs that measure: what they refuse and how, and what a run's JSON has. No figure is judged.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
cd "$root" || exit 1

model=$scratch/tiny.gguf # of 4096 positions, that is 64 pages

bench() {
    "$build/bench" --model "$model" --threads 1 "$@"
}

make_model() {
    "$build/make-model" "$@"
}

peers() { # from elsewhere
    (cd "$scratch" && "$root/tests/bench/peers.py" --settle 0 --build "$build" "$@")
}

says() { # CODE PATTERN COMMAND...: fails with one line that has the pattern, and prints nothing else
    local code=$1 pattern=$2 status
    shift 2
    "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
    status=$?
    cat "$scratch/out" "$scratch/err"
    [ "$status" = "$code" ] || { echo "exit status $status" && return 1; }
    grep -q -- "$pattern" "$scratch/err" && [ "$(wc -l <"$scratch/err")" = 1 ] && [ ! -s "$scratch/out" ]
}

has_help() {
    "$build/bench" --help >"$scratch/out" && grep -q -- '--same-tokens' "$scratch/out" &&
        make_model --help >"$scratch/out" && grep -qw mixtral "$scratch/out" &&
        grep -qw Q4_K "$scratch/out"
}

tells_size() { # on standard error, and the file is as large
    make_model --shape tiny --layers 1 --type Q8_0 "$model" 2>"$scratch/err" || return 1
    cat "$scratch/err"
    grep -q "takes $((($(stat -c %s "$model") + 500000) / 1000000)) MB\$" "$scratch/err"
}

nothing_of() { # FILE: neither it nor a part of it is there
    ! compgen -G "$1*"
}

too_large() ( # ACTION: of SIGXFSZ: - to be ended by it, '' to be told by write()
    # shellcheck disable=SC2064
    trap "$1" XFSZ
    ulimit -f 100
    make_model --shape tiny "$scratch/large.gguf"
)

removes_what_does_not_fit() {
    ! too_large "$1" && nothing_of "$scratch/large.gguf"
}

removes_what_was_ended() { # a hundred megabytes: time enough to be seen
    local pid
    "$build/make-model" --shape tiny --layers 64 "$scratch/ended.gguf" &
    pid=$!
    for _ in $(seq 1000); do
        compgen -G "$scratch/ended.gguf*" && break
        sleep 0.01
    done
    kill -TERM "$pid"
    wait "$pid"
    [ $? = 143 ] || { rm "$scratch/ended.gguf" && echo "it was whole before the signal came"; }
    nothing_of "$scratch/ended.gguf"
}

keeps_devices() {
    says 2 'no regular file' make_model --shape tiny /dev/null && [ -c /dev/null ]
}

results() { # every figure once, of a file whose name is no text
    local name=$scratch/$'tiny \xff.gguf'
    ln -s tiny.gguf "$name"
    bench --model "$name" --prefill 4 --decode 2 --context 70 --batch 2 --speculate 1 --rows 8 \
        --repeat 1 --kv q8_0 --same-tokens --json >"$scratch/json" || return 1
    cat "$scratch/json"
    /usr/bin/python3 - "$scratch/json" <<'END'
import json, sys
[line] = open(sys.argv[1], encoding="utf-8")
run = json.loads(line)
assert run["model"].endswith("tiny \\xff.gguf"), run["model"]
assert run["weight_types"].startswith("Q8_0") and run["instruction_set"], run
assert (run["kv"], run["rows"], run["repeat"], run["same_tokens"]) == ("q8_0", 8, 1, True), run
assert [row["tokens"] for row in run["prefill"]] == [4]
assert [row["context"] for row in run["decode"]] == [70]
assert [row["sequences"] for row in run["batch"]] == [2]
for row in run["prefill"] + run["decode"] + run["batch"]:
    assert row["tokens_per_second"] > 0 and row["share_of_roof"] > 0, row
assert [row["drafts"] for row in run["drafts"]] == [1, 1, 1]
for roofs in [run["roofs"], *run["roofs"]["teams"]]:
    for key in "threads", "read_bytes_per_second", "int8_ops_per_second", "f32_ops_per_second":
        assert roofs[key] > 0, roofs
assert all(team["barrier_seconds"] > 0 for team in run["roofs"]["teams"]), run
assert all(run["memory"][key] > 0 for key in ("file_bytes", "resident_bytes", "resident_anonymous_bytes", "kv_bytes")), run
assert 0 <= run["memory"]["file_huge_page_bytes"] <= run["memory"]["file_bytes"], run
assert run["load_seconds"] > 0
END
}

bench_run() { # MODELS [bench option]...: what make bench does
    mkdir -p "$scratch/run" && ln -sf "$build"/{bench,make-model} "$scratch/run" &&
        MODELS=$1 GROKD_BUILD=$scratch/run tests/bench/run "${@:2}"
}

measures_models() { # made for the first time, and there for the second
    local i
    for i in 1 2; do
        bench_run tiny:1:Q8_0 --prefill 4 --decode 2 --context 0 --batch 2 --rows 8 --repeat 1 >"$scratch/out" \
            2>"$scratch/err" || return 1
        [ "$(grep -c 'roof$' "$scratch/out")" = 3 ] || return 1
        [ "$(grep -c 'takes' "$scratch/err")" = $((2 - i)) ] || return 1
    done
}

reads_ik() { # what its two programs print, one of them on standard error
    local fake=$scratch/ik
    mkdir "$fake"
    cat >"$fake/llama-bench" <<END
#!/bin/sh
[ "\$(echo "\$*" | grep -c -e '-ctk q8_0')" = 1 ] || exit 1
speed=2.5
[ "\$(echo "\$*" | grep -c -e '-rtr 1 ')" = 0 ] || speed=3.5
echo "[{\"n_prompt\": 4, \"n_gen\": 0, \"avg_ts\": 8.25}, {\"n_prompt\": 0, \"n_gen\": 2, \"avg_ts\": \$speed}]"
END
    cat >"$fake/llama-batched-bench" <<END
#!/bin/sh
[ "\$(echo "\$*" | grep -c -e '-ctk q8_0')" = 1 ] || exit 1
speed=16.50
[ "\$(echo "\$*" | grep -c -e '-rtr ')" = 0 ] || speed=17.50
cat >&2 <<TABLE

|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|   128 |      2 |    2 |    260 |    1.000 |   256.00 |    0.250 |    \$speed |    1.250 |   208.00 |
TABLE
END
    chmod +x "$fake"/llama-*
    peers "$model" --threads 1 --prefill 4 --decode 2 --batch 2 --repeat 1 --ik "$fake" --ik-options='-ctk q8_0' \
        --ik-repacked >"$scratch/out" || return 1
    cat "$scratch/out"
    grep -Eqx 'ik, repacked +8.25 +[0-9.]+ +3.50 +[0-9.]+ +17.50 +[0-9.]+ +- +- *' "$scratch/out" || return 1
    grep -Eqx "ik_llama.cpp's share of the roof: prefill [0-9]+%, decode [0-9]+%, batch 2 [0-9]+%" \
        "$scratch/out" || return 1
    grep -Eqx 'ik_llama.cpp +8.25 +[0-9.]+ +2.50 +[0-9.]+ +16.50 +[0-9.]+ +- +- *' "$scratch/out"
}

sorts_by_memory() { # of five runs two that met slow memory, two that met fast, and one in which it changed
    local fake=$scratch/memory
    mkdir "$fake" && echo 0 >"$fake/n"
    cat >"$fake/bench" <<END
#!/bin/sh
n=\$(cat "$fake/n")
case "\$*" in
*'--decode 0'*)
    echo \$((n + 1)) >"$fake/n"
    read=\$(echo 30 30 30 32 32 60 60 60 60 60 | cut -d ' ' -f \$((n + 1)))e9
    echo "{\"roofs\": {\"read_bytes_per_second\": \$read}, \"memory\": {\"file_huge_page_bytes\": 3, \"file_bytes\": 4}}" ;;
*'--prefill  --decode'*)
    echo "{\"decode\": [{\"tokens_per_second\": \$n.5, \"share_of_roof\": 0.5}], \"batch\": []}" ;;
esac
END
    chmod +x "$fake/bench"
    peers "$model" --prefill '' --repeat 5 --build "$fake" >"$scratch/out" || return 1
    cat "$scratch/out"
    grep -Eqx ' +decode +ratio +at 30-31 +ratio +at 60-60 +ratio *' "$scratch/out" &&
        grep -Eqx 'grokd +5.50 +1.00 +2.50 +1.00 +8.50 +1.00 *' "$scratch/out" &&
        grep -qx 'the model file as grokd maps it: 75% in huge pages' "$scratch/out"
}

busy_beside() { # two loops beside each program measured, and none afterwards
    local child children fake=$scratch/build
    mkdir "$fake"
    cat >"$fake/bench" <<END
#!/bin/sh
echo \$(cat /proc/\$PPID/task/\$PPID/children) >>"$scratch/children"
exec "$build/bench" "\$@"
END
    chmod +x "$fake/bench"
    peers "$model" --threads 1 --prefill 4 --decode 2 --repeat 1 --busy 2 --build "$fake" || return 1
    [ "$(wc -l <"$scratch/children")" = 3 ] || { cat "$scratch/children" && return 1; }
    while read -ra children; do
        [ "${#children[@]}" = 3 ] || { echo "children: ${children[*]}" && return 1; }
        for child in "${children[@]}"; do
            [ ! -e "/proc/$child" ] || { echo "$child still runs" && return 1; }
        done
    done <"$scratch/children"
}

check "help" has_help
check "a model's size is told" tells_size
check "make-model without a shape" says 2 '--shape is missing' make_model "$scratch/x"
check "an unknown shape after a known one" says 2 "no --shape 'bogus'" \
    make_model --shape tiny --shape bogus "$scratch/x"
check "an unknown type" says 2 "no --type 'Q9'" make_model --shape tiny --type Q9 "$scratch/x"
for layers in abc -1 0 500 1x ''; do
    check "--layers '$layers'" says 2 "--layers takes .* from 1 to 256, not '$layers'" \
        make_model --shape tiny --layers "$layers" "$scratch/x"
done
check "no file" says 2 'name of the file' make_model --shape tiny
check "two files" says 2 "'y'" make_model --shape tiny "$scratch/x" y
check "none was written" nothing_of "$scratch/x"
check "what doesn't fit is removed" removes_what_does_not_fit ''
check "also where a signal tells it" removes_what_does_not_fit -
check "what was ended is removed" removes_what_was_ended
check "a device isn't replaced" keeps_devices

check "a model that isn't there" says 1 "$scratch/none.*No such file" bench --model "$scratch/none"
check "no model" says 2 '--model is missing' "$build/bench" --json
check "an unknown option" says 2 '--bogus' bench --bogus
check "an argument without an option" says 2 "'8'" bench 8
for option in prefill decode context batch speculate repeat rows threads; do
    for value in abc -1 99999999999 5x; do
        check "--$option $value" says 2 "--$option takes .*not '$value'" bench "--$option" "$value"
    done
done
for option in prefill batch speculate repeat rows threads; do
    check "--$option 0" says 2 "--$option takes .*not '0'" bench "--$option" 0
done
check "a list with a hole" says 2 "not '1,,2'" bench --prefill 1,,2
check "a list too long" says 2 'at most 16 numbers' bench --prefill "$(seq -s, 17)"
check "an unknown type of cache" says 2 "--kv takes .*'f64'" bench --kv f64
check "unknown kernels" says 2 "'bogus'" bench --isa bogus
check "a prompt without room" says 2 '--prefill 4096:.*context of 4096' bench --prefill 4,4096
check "a context without room" says 2 '--context 4079:.*context of 4096' bench --context 0,4079
check "a batch without pages" says 2 '--batch 65: 65 pages exceed the 64' bench --batch 2,65
check "a batch beyond a step's rows" says 2 '--batch 2:.*exceeds the 1 of --rows' \
    bench --batch 2 --rows 1
check "drafts beyond a step's rows" says 2 '--speculate 4:.*exceeds the 4 of --rows' \
    bench --speculate 4 --rows 4
check "too many tokens with drafts" says 2 '--decode 4097' bench --speculate 1 --decode 4097
check "what a run's JSON has" results

for option in repeat prefill decode batch busy; do
    check "peers --$option 0" says 2 "--$option: '0' is no whole number" peers "$model" "--$option" 0
done
check "peers --settle -1" says 2 "--settle.*'-1' is no whole number of seconds" peers "$model" --settle=-1
check "make bench's program measures what it's told" measures_models
check "it refuses a model without a format" says 2 "'mixtral:2'" bench_run mixtral:2
check "it refuses to measure none" says 2 'MODELS names no model' bench_run ''
check "peers without a model" says 2 "$scratch/none" peers "$scratch/none"
check "peers without a build" says 2 "--build.*$scratch/bench" peers "$model" --build "$scratch"
check "peers without ik_llama.cpp" says 2 "--ik.*$scratch/llama-bench" peers "$model" --ik "$scratch"
check "peers without what is repacked" says 2 "--ik-repacked.*--ik" peers "$model" --ik-repacked
check "peers without node-llama-cpp" says 2 "--node.*$scratch" peers "$model" --node "$scratch"
check "peers tell what bench refused" says 1 '--context 0:.*context of 4096' \
    peers "$model" --threads 1 --decode 5000
check "peers pass the instruction set on" says 1 "'bogus'" peers "$model" --isa bogus
check "peers read what ik_llama.cpp prints" reads_ik
check "decode is told apart by how fast memory was" sorts_by_memory
check "busy programs run beside, and end" busy_beside
finish
