"""The sandbox of a template: renders as transformers does, and bounds what means harm."""

import resource
import time

import pytest

from llama_rt.chat.jinja import resource_budget
from llama_rt.chat.jinja.sandbox import render_sandboxed
from llama_rt.errors import TemplateError

MESSAGES = [
    {"role": "system", "content": ' You are <b>nice</b> & "good". '},
    {"role": "user", "content": "Hi\n  there é 😀 {{x}} {% y %}, a,b\n"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": [1, 2]}}]},
    {"role": "user", "content": "ok\n<|x|>\n"},
]
ORDINARY = [
    "{% set ns = namespace(i=0, s='') %}{% for m in messages %}{% set ns.i = ns.i + 1 %}"
    "{% set ns.s = ns.s + m.role[0] %}{% endfor %}{{ ns.i }}{{ ns.s }}",
    "{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}{% if loop.first %}"
    "{% continue %}{% endif %}{{ m['content'] }}{% endfor %}",
    "{{ messages | tojson }}\n{{ messages | tojson(indent=4) }}{{ messages[0] | tojson(2) }}",
    "{% macro f(x, y='d') %}<{{ x }}-{{ y }}>{% endmacro %}{% for m in messages %}{{ f(m.role) }}"
    "{{ f(m.content | upper, y=m.role) }}{% endfor %}{{ f(*['a', 'b']) }}{{ f(**{'x': 1}) }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }}"
    "{{ messages | groupby('role') | list | length }}{{ (messages | last).role | capitalize }}"
    "{{ 'a,b'.split(',') | list }}{{ 7 // 2 }}{{ 2**3 }}{{ 'x' * 3 }}{{ '**%s**' | format(1) }}",
    "{{ foo }}{{ foo is defined }}{% if messages[0].foo %}y{% else %}n{% endif %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0] | dictsort }}"
    "{{ messages[0].get('z', 'no') }}{{ messages[2].tool_calls[0].arguments.items() | list }}",
    "{% set x %}A{{ messages[0].role }}{% endset %}{{ x }}{% filter upper %}abc{% endfilter %}",
    "{% macro r(x) %}[{{ caller() }}]{{ x }}{% endmacro %}{% call r(1) %}in{% endcall %}",
    "{% for i in range(3) %}{{ i }}{% endfor %}{{ messages[::-1] | map(attribute='role') | list }}",
    "{{ messages[0].content.strip().startswith('You') }}{{ messages[1].content.splitlines() }}"
    "{{ 'abc'[1:] }}{{ 'abc'[-1] }}{{ 'a.b'.rsplit('.', 1) }}{{ ('a' ~ 1 ~ [2]).title() }}"
    "{{ messages[1].content.split(', ')[-1].rstrip('\n') }}{{ '{:>5}{!r}'.format(1, 'x') }}",
    "{% set d = {'a': 1, 'b': [1, 2]} %}{{ d.a }}{{ d['b'][1] }}{{ d }}{{ dict(a=1) }}{{ (1, 2) }}"
    "{% set l = [] %}{% set l = l + ['x'] %}{{ l }}{{ dict([('a', 1)], b=2) }}",
    "{{ 1 is number }}{{ none is none }}{{ [] is iterable }}{{ 'a' in 'abc' }}{{ 3 is odd }}"
    "{{ 1 < 2 < 3 != 4 }}{{ 'role' in messages[0] }}{{ messages[0] is mapping }}",
    "{{ 'a\nb' | indent(2, true) }}{{ 'a' | center(5) }}{{ 'a long text' | truncate(6) }}"
    "{{ '<b>' | escape }}{{ [3, 1] | sort }}{{ [1, 1] | unique | list }}{{ 1.26 | round(1) }}"
    "{{ [1, 2] | sum }}{{ 'abc' | batch(2) | list }}{{ z | default('y') }}{{ [1, 2, 3] | max }}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.last }}{{ loop.length }}"
    "{{ loop.previtem is defined }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for m in messages | selectattr('content') %}{{ loop.length }}{{ loop.last }}{% endfor %}"
    "{% if [] | map('upper') %}a generator{% endif %}{% for x in [] %}{% else %}E{% endfor %}",
    "{% for m in [[1, [2]], 3] recursive %}{{ m if m is number else loop(m) }}{% endfor %}",
    "{% autoescape true %}{{ '<b>' }}{{ '<b>' | safe }}<i>{% endautoescape %}{{ '<b>' }}",
    "{% for m in messages %}{% set x = m.content.split('\\n') %}{{ x | last }}{{ x[0].rstrip() }}"
    "{% set y = '{:>4}'.format(x | length) %}{{ y }}{{ y.join(x) }}{% endfor %}",
    "{% block b %}x{% endblock %}{{ self.b() }}{% set c = cycler('a', 'b') %}{{ c.next() }}",
]


def rendered(source):
    messages = [{"role": "user", "content": "x"}]
    return render_sandboxed(source, {"messages": messages}, "here")


@pytest.mark.parametrize("source", ORDINARY)
def test_ordinary_templates_render_as_transformers_renders_them(bpe_folder, source):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(bpe_folder / "tokenizer.json"))
    text = theirs.apply_chat_template(MESSAGES, chat_template=source, tokenize=False)
    assert render_sandboxed(source, {"messages": MESSAGES}, "here") == text


GROW = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = NEXT %}{% endfor %}"
LARGE = "{% set x = 'a ' * 999999 %}{% set x = x ~ x ~ x ~ x ~ x ~ x ~ x ~ x %}"
PRIME = str(2**61 - 1)  # whole numbers a multiple of it apart have one hash
NEST = GROW.replace("START", "[1]").replace("NEXT", "[ns.x, ns.x]")
USES = (
    "{{ ns.x }}",
    "{{ ns.x | tojson }}",
    "{{ 'a' ~ ns.x }}",
    "{{ '%s' % (ns.x,) }}",
    "{{ '{}'.format(ns.x) }}",
    "{{ ns.x | join }}",
    "{{ ns.x == [ns.x, 1] }}",
    "{{ ns.x in [ns.x, 1] }}",
    "{{ [ns.x, ns.x] | sort }}",
)
HARMFUL = {
    "access": "{{ ''.__class__.__mro__ }}",
    "subclasses": "{{ [].__class__.__base__.__subclasses__() }}",
    "mutation": "{{ messages.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "multiply": "{{ 'a' * 1000000000 }}",
    "multiply list": "{{ ([0] * 100000000) | length }}",
    "multiply twice": "{{ ('a' * 10000) * 10000 }}",
    "power": "{{ 10 ** 10000000 }}",
    "large numbers": GROW.replace("START", "9").replace("NEXT", "ns.x * ns.x"),
    "doubling": GROW.replace("START", "'ab'").replace("NEXT", "ns.x + ns.x"),
    "joining": GROW.replace("START", "'ab'").replace("NEXT", "ns.x ~ ns.x"),
    "blocks": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}"
    "{% set b %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = b %}{% endfor %}",
    "lists": GROW.replace("START", "[1]").replace("NEXT", "ns.x + ns.x"),
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "output": "{% for i in range(9999) %}{{ 'a' * 100000 }}{% endfor %}",
    "keeping": "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}"
    "{% set ns.x = ns.x + ['a' * 9000000] %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(99) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "range": "{% for i in range(1000000000) %}{% endfor %}",
    "centre": "{{ 'a' | center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "width": "{{ '%1000000000d' | format(1) }}",
    "width by %": "{{ '%1000000000d' % 1 }}",
    "width by star": "{{ '%*d' % (1000000000, 1) }}",
    "width by method": "{{ '{:1000000000}'.format(1) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "replace filter": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "join": "{{ ('a' * 99999).join('b' * 99999) }}",
    "join filter": "{{ ('b' * 99999) | join('a' * 99999) }}",
    "indent": "{{ ('\n' * 99999) | indent('a' * 9999) }}",
    "lipsum": "{{ lipsum(n=100000) }}",
    "width by field": "{{ '{:{}}'.format(1, '9' * 9) }}",
    "many widths": "{{ ('%(a)999d' * 100000) % {'a': 1} }}",
    "odd format": "{{ '%999999999d' is odd }}",
    "rounding a text": "{{ 'abc' | round(9, 'ceil') }}",
    "batch": "{{ [1] | batch(300000000, 0) | list | length }}",
    "slice": "{{ [1] | slice(30000000) | list | length }}",
    "sum": "{% set a = range(9999) | list %}{{ ([a] * 99) | sum(start=[]) | length }}",
    "title": LARGE + "{{ x | title | length }}",
    "expandtabs": "{{ ('	' * 10000).expandtabs(60000) | length }}",
    "pieces": LARGE + "{{ x.split() | length }}",
    "letters": LARGE + "{{ x | list | length }}",
    "least letter": LARGE + "{{ x | min }}",
    "search from the end": LARGE + "{{ x.rfind('a ' * 99999 ~ 'b' ~ 'a ' * 99999) }}",
    "strip": LARGE + "{{ x.strip('b' * 9999999 ~ 'a ') }}",
    "tags": "{{ ('<!---->' * 999999) | striptags }}",
    "slices": LARGE + "{{ [" + "x[1:], " * 9999 + "] | length }}",
    "text": "{% for i in range(99999) %}" + "x" * 99999 + "{% endfor %}",
    "comparing": LARGE + "{% set y = x ~ '' %}{{ x" + " == y == x" * 9999 + " }}",
    "spreading": LARGE + "{% macro f() %}{{ varargs }}{% endmacro %}{{ f(*x) }}",
    "alike hashes": "{{ range(0, 99999 * N, N) | unique | list | length }}".replace("N", PRIME),
    "alike keys": "{{ dict(range(0, 99999 * N, N) | batch(2)) | length }}".replace("N", PRIME),
    "long number": "{{ ('f' * 9999999) | int(base=16) }}",
    "wide json": "{{ ([[]] * 99999) | tojson(indent=99999) }}",
    "macro's rest": "{% macro f(n) %}{% if n %}{{ f(n - 1, varargs, varargs) }}{% else %}"
    "{{ {varargs: 1} | length }}{% endif %}{% endmacro %}{{ f(60, 1) }}",
    "escaped": LARGE.replace("'a '", "'<<'") + "{% autoescape true %}{% macro f() %}"
    "{% for i in range(99) %}{{ x }}{% endfor %}{% endmacro %}{{ f() }}{% endautoescape %}",
    "printed while compiling": "{{ 'a' | center(16000000) }}" * 99,
    "lazy pairs": "{% set x = ['k', 'a' * 999999] %}"
    "{{ (['y'] * 999) | map('int', x) | urlencode }}",
    "shadowed hook": "{% set rounds = ''.join %}{% set made = rounds %}{% for i in 'a' * 99999 %}"
    "{% for j in 'a' * 99999 %}{% endfor %}{% endfor %}",
    **{f"nested, {use}": NEST + use for use in USES},
    "nested tuple": NEST.replace("[ns.x, ns.x]", "(ns.x, ns.x)") + "{{ {ns.x: 1} | length }}",
    "nested dict": NEST.replace("[ns.x, ns.x]", "{'a': ns.x, 'b': ns.x}") + "{{ ns.x }}",
    "nested groups": GROW.replace("START", "1").replace(
        "NEXT", "[{'a': 1, 'b': ns.x}, {'a': 1, 'b': ns.x}] | groupby('a')"
    )
    + "{{ ns.x }}",
    "deep tuple": GROW.replace("99", "99999").replace("START", "1").replace("NEXT", "(ns.x,)")
    + "{{ {ns.x: 1} | length }}",
    "syntax": "{% if %}",
    "division": "{{ 1 / 0 }}",
    "type": "{{ 1 + 'a' }}",
    "missing": "{{ nothing.attribute }}",
    "long": "{# " + "x" * 1100000 + " #}",
    "deep": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "nested": "{% if 1 %}" * 300 + "{% endif %}" * 300,
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_templates_fail_soon(name, monkeypatch):
    monkeypatch.setattr(resource_budget, "_MAX_SECONDS", 1.0)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateError, match=r"^here: "):
        rendered(HARMFUL[name])
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ messages | map(attribute='__class__') | list | length * 0 }}",
        "{{ namespace.__init__ }}",
        "{{ self._TemplateReference__context }}",
    ],
)
def test_python_objects_of_the_values_are_out_of_reach(source):
    assert rendered(source) in ("", "0")
