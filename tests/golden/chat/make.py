#!/usr/bin/env python3
"""Renders conversations with jinja2, set up as Hugging Face's transformers does, into cases.txt.

The *.jinja files are the templates that models were published with. Each record of cases.txt is a
word, numbers, and on the next line as many bytes as the last number says:

    template NAME N   the source of the records that follow
    message ROLE N
    render G N        the messages so far, with add_generation_prompt G; they are gone after it
    refuse G 0        the same, where jinja2 raises
"""

import json
import random
import sys
from pathlib import Path

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent


def raise_exception(message):
    raise TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception

WORDS = [
    "Hello", "who are you?", "  ", "\n", "\n\n", "\t", "naïve café", "你好，世界", "🦙", "'", '"',
    "\\n", "{{ bos_token }}", "{% raw %}", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]",
    "[/INST]", "<<SYS>>", "</think>", "<think>", "&amp;", "a", "B", "3.14", "\u00a0", "\u3000", "x = 1",
]


def content(rng):
    return rng.choice(["", " "]).join(rng.choice(WORDS) for _ in range(rng.randint(1, 7)))


def conversation(rng):
    turns = []
    if rng.random() < 0.4:
        turns.append({"role": "system", "content": content(rng)})
    for i in range(rng.randint(1, 5)):
        role = "user" if i % 2 == 0 else "assistant"
        if rng.random() < 0.04:
            role = rng.choice(["user", "assistant", "system"])
        turns.append({"role": role, "content": content(rng)})
    return turns


SPACES = ["", " ", "  ", "\n", "\n\n", " \n", "\n  ", "a", "b ", " c\n", "\t", "\u00a0"]


def spaced(rng):
    """A template of white space in all its relations to braces."""
    out, depth = [], 0
    for _ in range(rng.randint(3, 9)):
        out.append(rng.choice(SPACES))
        left, right = rng.choice(["", "", "-", "+"]), rng.choice(["", "", "-", "+"])
        kind = rng.randrange(5)
        if kind == 0:
            out.append("{{%s 'x ' %s}}" % (left.replace("+", ""), right.replace("+", "")))
        elif kind == 1:
            out.append("{#%s note %s#}" % (left, right))
        elif kind == 2:
            out.append("{%%%s set y = 1 %s%%}" % (left, right))
        elif kind == 3 or depth == 0:
            out.append("{%%%s if true %s%%}" % (left, right))
            depth += 1
        else:
            out.append("{%%%s endif %s%%}" % (left, right))
            depth -= 1
    out.append(rng.choice(SPACES))
    out += ["{% endif %}" + rng.choice(SPACES)] * depth
    return "".join(out)


EXPRESSIONS = r"""
{{ 1 + 2 * 3 - 4 // 3 % 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 10 - -2 }}|{{ - 3 * 2 }}
{{ 'a' ~ 1 ~ none ~ true ~ nope ~ 'b' }}|{{ 'ab' * 3 }}|{{ 'a' 'b' "c" }}
{{ 1 < 2 < 3 }}|{{ 3 > 2 >= 2 == 2 }}|{{ 'a' < 'b' }}|{{ 1 == true }}|{{ 'x' != 'y' }}|{{ [1, 'a'] == [1, 'a'] }}
{{ 'a' in 'cat' }}|{{ 'z' not in 'cat' }}|{{ 2 in [1, 2] }}|{{ 'k' in {'k': 1} }}|{{ 'role' in messages[0] }}
{{ 'yes' if messages else 'no' }}|{{ 'yes' if nope else 'no' }}|{{ 'x' if false }}|{{ 1 if 0 else 2 if 0 else 3 }}
{{ nope or 'fallback' }}|{{ '' and 'never' }}|{{ 'a' and 'b' }}|{{ not '' }}|{{ not not 1 }}|{{ 0 or none }}
{{ 'abcdef'[1:] }}|{{ 'abcdef'[:-1] }}|{{ 'abcdef'[-3:-1] }}|{{ 'abcdef'[::-1] }}|{{ 'abcdef'[::2] }}|{{ 'abcdef'[5:1:-2] }}|{{ 'abcdef'[9:] }}|{{ 'äöü'[1] }}|{{ 'äöü'[-1:] }}|{{ 'abc'[7] }}
{{ messages[0].role }}|{{ messages[-1]['role'] }}|{{ messages[1:] | length }}|{{ messages[:-1] | length }}|{{ messages[99] is defined }}
{{ '  x y ' | trim }}|{{ 'xxayx' | trim('x') }}|{{ 'MiXed' | upper }}|{{ 'MiXed' | lower }}|{{ 'hello wORLD' | title }}|{{ 'hELLO' | capitalize }}
{{ ['a', 'b', 3] | join(', ') }}|{{ [] | join('x') }}|{{ 'abc' | join('-') }}|{{ messages | join('/', attribute='role') }}
{{ [1, 2, 3] | first }}|{{ [1, 2, 3] | last }}|{{ 'abc' | first }}|{{ [] | first }}|{{ 'häß' | length }}|{{ nope | length }}
{{ nope | default('d') }}|{{ '' | default('d') }}|{{ '' | default('d', true) }}|{{ none | default('d', boolean=true) }}|{{ nope | d }}
{{ {'a': 1, 'b': [true, none, 'x"\n\t\\']} | tojson }}|{{ 'é\u0001' | tojson }}|{{ [] | tojson }}|{{ {} | tojson }}
{{ {'a': 1, 'b': [1, {'c': []}]} | tojson(indent=4) }}
{{ '12' | int + 1 }}|{{ 'x' | int }}|{{ 'x' | int(7) }}|{{ 42 | string ~ '!' }}|{{ 'abc' | reverse }}|{{ [1, 2] | reverse | join }}
{{ 'a-b-a' | replace('a', 'xx') }}|{{ 'aaa'.replace('a', 'b', 2) }}|{{ 'abc' | list | join('.') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ messages | rejectattr('role', '==', 'user') | map(attribute='role') | join(',') }}|{{ ['a ', ' b'] | map('trim') | join('|') }}|{{ [0, 1, '', 'x'] | select | list | length }}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}|{% for k in {'a': 1} %}{{ k }}{% endfor %}|{% for p in {'x': 'y'} | items %}{{ p[0] ~ p[1] }}{% endfor %}
{{ ' a b  c '.split() | join('|') }}|{{ 'a,b,,c'.split(',') | join('|') }}|{{ 'a,b,c'.split(',', 1) | last }}|{{ 'x'.join(['1', '2']) }}
{{ ' x '.strip() }}|{{ '\n\nx\n'.lstrip('\n') }}|{{ 'xyx'.rstrip('x') }}|{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith('bc') }}|{{ 'äbc'.find('b') }}|{{ 'abab'.count('ab') }}|{{ 'ab cd'.title() }}
{{ messages[0].get('role') }}|{{ messages[0].get('nope') }}|{{ messages[0].get('nope', 'x') }}|{{ {'a': 1}.keys() | list | join }}|{{ {'a': 5}.values() | list | join }}
{{ nope is defined }}|{{ nope is undefined }}|{{ none is none }}|{{ true is boolean }}|{{ 1 is number }}|{{ true is number }}|{{ 1 is integer }}|{{ 'x' is string }}|{{ {} is mapping }}|{{ [] is sequence }}|{{ 'x' is iterable }}|{{ 3 is odd }}|{{ 4 is even }}|{{ 9 is divisibleby 3 }}|{{ 9 is divisibleby(2) }}|{{ 1 is eq 1 }}|{{ 1 is not ne 1 }}|{{ 'a' is in ['a'] }}|{{ true is true }}|{{ 1 is false }}|{{ 'x' is not none and 1 }}|{{ raise_exception is defined }}|{{ namespace is callable }}
{% for i in range(3) %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}
{% for i in [1, 2, 3] %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}
{% for i in range(10) if i is odd %}{{ i }}/{{ loop.length }} {% else %}none{% endfor %}|{% for i in [] %}x{% else %}none{% endfor %}|{% for c in 'añ' %}[{{ c }}]{% endfor %}|{% for x in nope %}x{% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }};{% endfor %}{{ x }}
{% set ns = namespace(n=0, t='') %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% set ns.t = ns.t ~ i %}{% endfor %}{{ ns.n }}{{ ns.t }}{{ ns.nope is defined }}
{% set a, b = [1, 2] %}{{ a }}{{ b }}|{% set t %}  block {{ a }} {% endset %}[{{ t | trim }}]|{% if true %}{% set in_if = 5 %}{% endif %}{{ in_if }}
{% for i in [1, 2] %}{% for j in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}
{% if nope %}a{% elif 0 %}b{% elif 'x' %}c{% else %}d{% endif %}|{% if not (1 and 0) or 0 %}y{% endif %}
{{ range(2, 9, 3) | list | join(',') }}|{{ range(3, 0, -1) | list | join(',') }}|{{ dict(a=1, b='c') | tojson }}|{{ (1, 2, 3) | length }}|{{ () | length }}|{{ ('x',) | first }}
{{ '{{' }}|{{ "it's" }}|{{ 'say "x"' }}|{{ '\x41\u00e9\U0001f999' }}|{{ 'a\
b' }}|{{ 'tab\there' }}|{{ {'a': {'b': 1}}['a']['b'] }}|{{ {'a': {'b': 1}}.a.b }}
{{ 1_000 }}|{{ [1, [2, [3]]][1][1][0] }}|{{ (messages | first).role | upper }}|{{ 'a' ~ 'b' | upper }}|{{ ('a' ~ 'b') | upper }}|{{ messages | length > 1 }}|{{ messages|length - 1 }}
{% generation %}kept{% endgeneration %}
"""

MESSAGES = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]


def main():
    out = open(HERE / "cases.txt", "wb")

    def record(words, text):
        data = text.encode()
        out.write(("%s %d\n" % (words, len(data))).encode() + data + b"\n")

    def case(source, messages, prompt):
        for m in messages:
            record("message " + m["role"], m["content"])
        text = source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        try:
            text = env.from_string(text).render(
                messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=prompt
            )
            record("render %d" % prompt, text)
        except TemplateError:
            record("refuse %d" % prompt, "")

    rng = random.Random(20261123)
    for path in sorted(HERE.glob("*.jinja")):
        source = path.read_bytes().decode()
        record("template " + path.stem, source)
        for i in range(12):
            case(source, conversation(rng), i % 4 != 0)
    expressions = EXPRESSIONS.strip("\n").replace("\\\n", "\0").split("\n")
    for i, source in enumerate(expressions):
        source = source.replace("\0", "\\\n")
        record("template expression-%d" % (i + 1), source)
        case(source, MESSAGES, True)
    for i in range(250):
        source = spaced(rng)
        record("template space-%d" % (i + 1), source)
        case(source, MESSAGES[:1], True)


if __name__ == "__main__":
    sys.exit(main())
