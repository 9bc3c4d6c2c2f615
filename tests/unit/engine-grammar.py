#!/usr/bin/python3
"""engine-grammar.py GRAMMAR-TOOL SUITE TEST: one comparison of constraints with others' answers.

What is generated must be valid, and what is invalid must not be accepted. That something valid is
not accepted is right only where grokctl(1) says so under CONSTRAINTS."""
import json
import pathlib
import random
import re
import subprocess
import sys

import jsonschema

FORMATS = {"date", "date-time", "time", "email", "uuid", "ipv4", "ipv6", "hostname", "duration"}


class Tool:
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, kind, source, texts=(), generate=0, seed=1, bytes_max=3000):
        question = {"kind": kind, "source": source, "texts": list(texts), "generate": generate,
                    "seed": seed, "bytes_max": bytes_max}
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the tool died of {question}")
        return json.loads(line)


def dumps(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def loads(schema, text):
    try:
        return json.loads(text)
    except ValueError:
        sys.exit(f"not JSON: {dumps(schema)} gave {text}")


def is_valid(schema, value):
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def keys_of(schema):
    if isinstance(schema, dict):
        yield from schema
        for value in schema.values():
            yield from keys_of(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from keys_of(value)


# ---- schemas ----

TYPE_OF_KEY = {"properties": dict, "required": dict, "additionalProperties": dict, "items": list,
               "prefixItems": list, "minItems": list, "maxItems": list, "pattern": str,
               "minLength": str, "maxLength": str, "format": str, "minimum": float,
               "maximum": float, "exclusiveMinimum": float, "exclusiveMaximum": float,
               "multipleOf": float}


def implies_another_type(schema, value):
    kind = float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)
    kinds = {TYPE_OF_KEY[key] for key in keys_of(schema) if key in TYPE_OF_KEY}
    return bool(kinds) and "type" not in schema and kind not in kinds


def has_float_that_is_whole(value):
    return ".0" in dumps(value)


def test_suite(tool, suite):
    """Everything invalid is refused, and what is valid accepted unless one of the stated rules
    forbids it; each keyword of the suite is understood somewhere."""
    n, understood = 0, set()
    with open(suite, encoding="utf-8") as lines:
        groups = [json.loads(line) for line in lines]
    for name, schema, instances in groups:
        answer = tool.ask("schema", dumps(schema), [dumps(data) for _, data, _ in instances], 5)
        if "error" in answer:
            assert re.search("#|no text|can't be read", answer["error"]), (name, answer)
            continue
        understood.add(name.split(":")[0])
        for (what, data, valid), accepted in zip(instances, answer["accepts"]):
            n += 1
            assert valid or not accepted, (name, what, data)
            if valid and not accepted and isinstance(schema, dict):
                stated = (implies_another_type(schema, data) or has_float_that_is_whole(data)
                          or name.split(":")[0] in FORMATS
                          or "const with" in name or "$ref" in dumps(schema)
                          or isinstance(data, int) and abs(data) >= 10 ** 15
                          or name == "ecmascript-regex: ECMA 262 \\s matches whitespace"
                          or ("properties" in keys_of(schema)
                              and "additionalProperties" not in schema)
                          or "allOf" in schema)
                assert stated, (name, what, data)
        for text in answer["generated"]:
            value = json.loads(text)
            assert is_valid(schema, value), (name, text)
    missing = {name.split(":")[0] for name, _, _ in groups} - understood
    assert not missing and n > 500, (missing, n)


def random_schema(r, depth=0):
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "format"]
    if depth < 3:
        kinds += ["object", "object", "array", "array", "anyOf", "oneOf", "allOf", "types"]
    kind = r.choice(kinds)
    if kind in ("boolean", "null"):
        return {"type": kind}
    if kind == "string":
        low = r.choice([0, 0, 1, 3])
        return {"type": kind, **({"minLength": low} if low else {}),
                **({"maxLength": low + r.randrange(6)} if r.random() < 0.6 else {})}
    if kind in ("integer", "number"):
        schema = {"type": kind}
        low = r.choice([r.randrange(-2000, 2000), round(r.uniform(-30, 30), r.randrange(4)), 0])
        high = low + r.choice([0, 1, 7, 1000, 0.25, 123456])
        if r.random() < 0.6:
            schema[r.choice(["minimum", "exclusiveMinimum"])] = low
        if r.random() < 0.6:
            schema[r.choice(["maximum", "exclusiveMaximum"])] = high
        if kind == "integer" and r.random() < 0.3:
            schema = {"type": kind, "multipleOf": r.choice([2, 3, 7, 10, 99])}
            if r.random() < 0.5:
                schema["minimum"] = 0
        return schema
    if kind == "enum":
        return {"enum": r.sample(["a", 'b"\\', "é\n", 1, -2.5, None, True, [1, {"x": []}], ""], 3)}
    if kind == "const":
        return {"const": r.choice(["only", 0, None, {"k": [1, 2]}])}
    if kind == "pattern":
        return {"type": "string", "pattern": r.choice(
            ["^[a-z]+$", "b+", "^x|y$", r"^\d{2,4}-\w*$", r"^(é|ü){1,3}\\", '^"?$', r"^[^\s]$"])}
    if kind == "format":
        return {"type": "string", "format": r.choice(sorted(FORMATS))}
    if kind == "types":
        return {"type": r.sample(["string", "null", "boolean", "integer", "array", "object"], 2)}
    if kind == "oneOf" and r.random() < 0.5:
        return {"oneOf": [tagged_object(r, depth + 1, tag) for tag in r.sample(["a", "b", "c", 1], 2)]}
    if kind == "oneOf":
        return {"oneOf": [random_schema(r, depth + 1) for _ in range(2)]}
    if kind in ("anyOf", "allOf"):
        parts = [random_schema(r, depth + 1) for _ in range(r.randrange(1, 4))]
        if kind == "anyOf":
            return {"anyOf": parts, **({"type": ["string", "integer", "object"]} if r.random() < 0.2 else {})}
        return {"allOf": [random_object(r, depth + 1) for _ in range(2)]}
    if kind == "array":
        schema = {"type": "array", "items": random_schema(r, depth + 1)}
        if r.random() < 0.4:
            schema["prefixItems"] = [random_schema(r, depth + 1) for _ in range(r.randrange(1, 3))]
        if r.random() < 0.5:
            schema["minItems"] = r.randrange(3)
        if r.random() < 0.5:
            schema["maxItems"] = r.randrange(schema.get("minItems", 0), 5)
        return schema
    return random_object(r, depth)


def tagged_object(r, depth, tag):
    schema = random_object(r, depth)
    schema["properties"]["tag"] = r.choice([{"const": tag}, {"enum": [tag]}])
    if r.random() < 0.8:
        schema["required"].append("tag")
    return schema


def random_object(r, depth):
    names = r.sample(["a", "ab", "b c", "é", "n\n", "zz", ""], r.randrange(1, 4))
    schema = {"type": "object",
              "properties": {name: random_schema(r, depth + 1) for name in names},
              "required": [name for name in names if r.random() < 0.5]}
    if r.random() < 0.5:
        schema["additionalProperties"] = r.choice([False, True, {"type": "integer"}])
    if r.random() < 0.2:
        schema["required"].append("extra")
    return schema


def test_random_schemas(tool, _):
    r, n, n_schemas = random.Random(5), 0, 0
    for seed in range(600):
        schema = random_schema(r)
        answer = tool.ask("schema", dumps(schema), generate=8, seed=seed)
        if "error" in answer:
            known = ("no text", "hold together", "not supported", "only one of", "15 digits", "'oneOf'")
            assert any(word in answer["error"] for word in known), (schema, answer)
            continue
        n_schemas += 1
        for text in answer["generated"]:
            n += 1
            assert is_valid(schema, loads(schema, text)), (schema, text)
    assert n_schemas > 400 and n > 2000, (n_schemas, n)


UNSUPPORTED = {
    "$anchor": "x", "$dynamicRef": "#x", "$dynamicAnchor": "x", "$vocabulary": {}, "not": {}, "if": {}, "then": {},
    "else": {}, "dependentSchemas": {}, "dependentRequired": {}, "dependencies": {}, "contains": {},
    "minContains": 1, "maxContains": 1, "uniqueItems": True, "additionalItems": False, "unevaluatedItems": False,
    "unevaluatedProperties": False, "patternProperties": {}, "propertyNames": {}, "minProperties": 1,
    "maxProperties": 1, "contentEncoding": "base64", "contentMediaType": "text/html", "contentSchema": {},
    "nullable": True, "discriminator": {}, "anyThing": 1}


def test_unsupported_keywords(tool, _):
    """Nothing is silently passed over: each keyword is refused with the place of its schema."""
    for key, value in UNSUPPORTED.items():
        for before, after, place in [("", "", "#:"), ('{"properties":{"a":', "}}", "#/properties/a:"),
                                     ('{"anyOf":[{},', "]}", "#/anyOf/1:"), ('{"items":', "}", "#/items:"),
                                     ('{"$ref":"#/$defs/x","$defs":{"x":', "}}", "#/$defs/x:"),
                                     ('{"allOf":[{"type":"object"},', "]}", "#:")]:
            answer = tool.ask("schema", before + dumps({"type": "object", key: value}) + after)
            assert f"'{key}'" in answer["error"] and place in answer["error"], (key, before, answer)
    for schema, words in [
            ({"type": "string", "format": "uri"}, ["'uri'"]), ({"multipleOf": 0.5}, ["'multipleOf'"]),
            ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["'oneOf'", "0 and 1"]),
            ({"oneOf": [{"minLength": 2}, {"type": "integer"}]}, ["'oneOf'"]),
            ({"oneOf": [{"const": 1}, {"const": 2}, {"enum": [3, 1.0]}]}, ["'oneOf'", "0 and 2"]),
            ({"properties": {"p": {"pattern": "(?=a)"}}}, ["#/properties/p:", "'pattern'", "at byte 0"]),
            ({"$ref": "other.json"}, ["'$ref'"]), ({"$ref": "#/$defs/none"}, ["points to nothing"]),
            ({"$ref": "#/allOf/x", "allOf": [{}]}, ["points to nothing"]),
            ({"type": "string", "pattern": "a", "maxLength": 3}, ["only one of"]),
            ({"items": [{}]}, ["prefixItems"]), ({"type": "strings"}, ["'type'"]), ({"properties": 3}, ["'properties'"])]:
        answer = tool.ask("schema", dumps(schema))
        assert all(word in answer.get("error", "") for word in ["#"] + words), (schema, answer)


def test_disjoint(tool, _):
    """`oneOf` where it is taken means that just one holds, as jsonschema sees it."""
    r, n_taken, n_refused = random.Random(11), 0, 0
    for seed in range(1500):
        parts = [random_schema(r, r.randrange(2, 4)) for _ in range(2)]
        if r.random() < 0.3:
            parts = [tagged_object(r, 3, tag) for tag in r.sample(["a", "b", 1, None], 3)]
        answer = tool.ask("schema", dumps({"oneOf": parts}), generate=4, seed=seed)
        if "error" in answer:
            n_refused += "'oneOf'" in answer["error"]
            continue
        n_taken += 1
        values = [json.loads(text) for text in answer["generated"]]
        for value in values + [mutated(r, value) for value in values]:
            assert sum(is_valid(part, value) for part in parts) < 2, (parts, value)
        assert all(is_valid({"oneOf": parts}, value) for value in values), (parts, values)
    assert n_taken > 300 and n_refused > 100, (n_taken, n_refused)


def test_property_order(tool, _):
    names = ["zeta", "alpha", "Beta", "_", "10", "9", "é"]
    schema = {"type": "object", "properties": {name: {"type": "null"} for name in names},
              "required": ["zeta", "10", "other"], "additionalProperties": {"type": "null"}}
    answer = tool.ask("schema", dumps(schema), generate=30)
    for text in answer["generated"]:
        keys = [key for key in json.loads(text) if key in names]
        assert keys == sorted(keys, key=names.index) and {"zeta", "10", "other"} <= set(json.loads(text)), text
    assert tool.ask("schema", dumps(schema), ['{"zeta":null,"9":null,"10":null,"other":null}',
                                              '{"zeta":null,"10":null,"other":null}'])["accepts"] == [False, True]


def mutated(r, value):
    """The value, a little different."""
    if isinstance(value, dict) and value:
        key = r.choice(sorted(value))
        choice = r.randrange(3)
        if choice == 0:
            return {k: v for k, v in value.items() if k != key}
        if choice == 1:
            return {**value, "other": 1}
        return {**value, key: mutated(r, value[key])}
    if isinstance(value, list) and value:
        i = r.randrange(len(value))
        return r.choice([value[:i] + value[i + 1:], value + [value[i]],
                         value[:i] + [mutated(r, value[i])] + value[i + 1:]])
    if isinstance(value, str):
        return r.choice([value[1:], value + "x", 'q"' + value, 0])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return r.choice([value + 1, value - 1, -value, value * 10, value + 0.5, None])
    return r.choice([0, "", [], {}, True, None])


def test_random_values(tool, _):
    """Documents near those that are valid: nothing that is accepted is invalid, and numbers and
    lengths are accepted where they are valid."""
    r, n_accepted, n_refused = random.Random(7), 0, 0
    for seed in range(400):
        schema = random_schema(r)
        answer = tool.ask("schema", dumps(schema), generate=4, seed=seed)
        values = [json.loads(text) for text in answer.get("generated", [])]
        values += [mutated(r, value) for value in values for _ in range(6)]
        answer = tool.ask("schema", dumps(schema), [dumps(value) for value in values])
        for value, accepted in zip(values, answer.get("accepts", [])):
            valid = is_valid(schema, value)
            assert valid or not accepted, (schema, value)
            n_accepted += accepted
            n_refused += not accepted
            is_short = len(dumps(value).split(".")[-1]) < 9 and "e" not in dumps(value)
            if schema.get("type") in ("integer", "number", "string") and "format" not in schema:
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if number and (not is_short or has_float_that_is_whole(value) or abs(value) > 9e14):
                    continue
                if value == 0 and dumps(value).startswith("-"):
                    continue
                assert accepted == valid, (schema, value)
    assert n_accepted > 1000 and n_refused > 1000, (n_accepted, n_refused)


# ---- regular expressions ----

def random_regex(r, depth=0):
    kind = r.randrange(10 if depth < 4 else 6)
    if kind < 3:
        return r.choice(["a", "b", "c", "é", "€", "\\.", "\\n", "-", "x41"[:1], "\\x41", "\\u20ac"])
    if kind == 3:
        return r.choice(["[ab]", "[^a]", "[a-cé]", "[^\\W\\d]", "[]a]", "[a\\-\\]]", "[\\s€-♞]", "[^é-€b]"])
    if kind == 4:
        return r.choice(["\\d", "\\D", "\\w", "\\W", "\\s", "\\S", "."])
    if kind == 5:
        return r.choice(["", "ab", "ba"])
    if kind == 6:
        return r.choice(["(%s)", "(?:%s)", "(?P<n%d>%%s)" % r.randrange(10 ** 9)]) % random_regex(r, depth + 1)
    if kind == 7:
        return "(?:%s|%s)" % (random_regex(r, depth + 1), random_regex(r, depth + 1))
    if kind == 8:
        quantifier = r.choice(["*", "+", "?", "{2}", "{1,}", "{,2}", "{1,3}", "*?", "+?", "??"])
        return "(?:%s)%s" % (random_regex(r, depth + 1), quantifier)
    return random_regex(r, depth + 1) + random_regex(r, depth + 1)


def test_regexes(tool, _):
    r, n, n_matched = random.Random(3), 0, 0
    for seed in range(1500):
        source = random_regex(r) + random_regex(r)
        try:
            compiled = re.compile(source, re.ASCII)
        except re.error:
            continue
        answer = tool.ask("regex", source, generate=4, seed=seed, bytes_max=60)
        assert "error" not in answer or "no text" in answer["error"], (source, answer)
        texts = answer.get("generated", [])
        for text in texts:
            assert compiled.fullmatch(text), (source, text)
        texts += ["".join(r.choice("aabbcé€.A- 0\n♞x") for _ in range(r.randrange(6))) for _ in range(20)]
        texts += [text[:-1] + r.choice("ab\n") for text in texts if text]
        for text, accepted in zip(texts, tool.ask("regex", source, texts).get("accepts", [])):
            n += 1
            n_matched += accepted
            assert accepted == bool(compiled.fullmatch(text)), (source, text, accepted)
    assert n > 20000 and n_matched > 2000, (n, n_matched)


def test_refused_regexes(tool, _):
    for source, word in [("(?=a)b", "ahead"), ("(?<!a)b", "behind"), (r"(a)\1", "back"), (r"\bq", "boundary"),
                         (r"\p{L}", "property"), ("(?i)a", "group"), ("a++", "possessive"), ("a**", "follows"),
                         ("*a", "repeat"), ("a{3,1}", "order"), ("a{99999}", "at most"), ("[z-a]", "order"),
                         ("(a", "not closed"), ("a)", "no group"), ("[a", "missing"), ("a\\", "nothing follows"),
                         ("(?P<x", "name"), ("a^b", "ends"), ("(^a)", "ends"), ("[^\\s\\S]", "no text"),
                         ("(" * 200 + ")" * 200, "in each other"), (r"\Aa", "anchor"), (r"\x4", "hexadecimal"),
                         ("(((a{999}){999}){999}){999}[b-d]{9999}" * 60, "states")]:
        answer = tool.ask("regex", source)
        assert word in answer.get("error", ""), (source[:50], word, answer)
        if word not in ("no text", "states"):
            assert re.search("at byte [0-9]+:", answer["error"]), answer


# ---- grammars ----

JSON = r'''
# A document as JSON has it.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
'''
CHESS = r'''
root ::= (
    "1. " move " " move "\n"

    ([1-9] [0-9]? ". " move " " move "\n")+
)
move    ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
'''
ARITHMETIC = r'''
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
'''
LIST = r'''
root ::= item+
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
'''


def test_grammars(tool, _):
    for source, good, bad in [
            (JSON, ['{}', '{"a": [1, -2.5e3, true], "é": {"x": null}}', '{"\\u00e9\\n": "♞"}'],
             ['', '[]', '{', '{"a"}', '{"a": 01}', '{"a": "\n"}', '{,}', '{}x']),
            (CHESS, ["1. e4 e5\n2. Nf3 Nc6\n3. Bb5 a6\n", "1. d4 d5\n2. exd8=Q+ O-O-O#\n"],
             ["", "1. e4 e5\n", "2. e4 e5\n3. d4 d5\n", "1. e9 e5\n2. a1 a2\n"]),
            (ARITHMETIC, ["a=b\n", "(x +1) *2= y\n\n", "1/(2-(3))=x\na=b\n"], ["", "a=\n", "(a=b\n", "1+=2\n"]),
            (LIST, ["- one\n- two\n", "- é♞\n"], ["", "- \n", "one\n", "- a\x85b\n", "- a\u2028\n"])]:
        answer = tool.ask("grammar", source, good + bad, generate=20, bytes_max=600)
        assert answer["accepts"] == [True] * len(good) + [False] * len(bad), (source, answer)
        assert answer["generated"], source
        again = tool.ask("grammar", source, answer["generated"])
        assert all(again["accepts"])
        if source is JSON:
            for text in answer["generated"]:
                json.loads(text)
    for source, words in [("root ::= a", ["line 1, column 10", "no rule 'a'"]), ("a ::= \"x\"", ["no rule 'root'"]),
                          ("root ::= \"a", ["line 1, column 10", "not closed"]), ("root = \"a\"", ["'::='"]),
                          ("root ::= [z-a]", ["order"]), ("root ::= \"a\"\nroot ::= \"b\"", ["line 2", "twice"]),
                          ("root ::= root \"a\" | \"b\"", ["left recursion", "'root'"]),
                          ("root ::= x\nx ::= y? x \"a\"\ny ::= \"b\"", ["left recursion", "'x'"]),
                          ("root ::= \"a\" root", ["no text"]), ("root ::= (" * 200, ["line"]),
                          ("root ::= \"a\"{5,2}", ["order"]), ("root ::= \"\\q\"", ["escape"]), ("", ["no rule 'root'"]),
                          ("root ::= )", ["missing"]), ("root ::= [^\\x00-\\U0010ffff]", ["no text"])]:
        answer = tool.ask("grammar", source)
        assert all(word in answer.get("error", "") for word in words), (source, words, answer)


def test_llama_cpp(tool, suite):
    """Random grammars, on texts that it was asked about."""
    n, n_accepted = 0, 0
    with open(pathlib.Path(suite).parent.parent / "gbnf/llama-cpp.jsonl", encoding="utf-8") as lines:
        for source, texts in map(json.loads, lines):
            answer = tool.ask("grammar", source, [text for text, _ in texts])
            assert answer.get("accepts") == [accepted for _, accepted in texts], (source, texts, answer)
            n += len(texts)
            n_accepted += sum(answer["accepts"])
    assert n > 1500 and n_accepted > 300, (n, n_accepted)


def main():
    tool = Tool(sys.argv[1])
    globals()["test_" + sys.argv[3]](tool, sys.argv[2])


main()
