#!/usr/bin/env bash
# Constraints against what others say: JSON-Schema-Test-Suite, Python's jsonschema and re,
# llama.cpp.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"

export PYTHONDONTWRITEBYTECODE=1

for test in suite random_schemas random_values unsupported_keywords disjoint property_order regexes refused_regexes grammars llama_cpp; do
    check "$test" /usr/bin/python3 "$root/tests/unit/engine-grammar.py" "$build/tests/grammar" \
        "$root/tests/golden/json-schema/suite.jsonl" "$test"
done
finish
