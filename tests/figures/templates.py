"""Writes templates.json: what Jinja2 renders, in the environment that transformers makes for chat templates.

    python templates.py > templates.json          needs: pip install jinja2
    python templates.py FOLDER > more.json        the same for each *.jinja of a folder (WARPWEFT_TEMPLATES=more.json tests them)

Each case is a template, its variables, and the text or the error that comes of it.
"""
import json, sys
from datetime import datetime
from pathlib import Path
import jinja2
from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """{% generation %} … {% endgeneration %} renders its body."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def raise_exception(message):
    raise TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return env


TALK = [{"role": "user", "content": " Hi there "}, {"role": "assistant", "content": "Hello <b>"}, {"role": "user", "content": "Bye é😀"}]
CALLS = [
    {"role": "system", "content": "Be kind"},
    {"role": "user", "content": "What is the weather in Paris?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}}}]},
    {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": "{\"sky\": \"clear\"}"},
    {"role": "assistant", "content": "<think>\nsunny\n</think>\n\nIt is clear."},
    {"role": "user", "content": "Thanks"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather", "parameters": {"type": "object", "properties": {
    "city": {"type": "string", "description": "Where"}, "days": {"type": "integer", "enum": [1, 2, 3]}}, "required": ["city"]}}}]
BASE = {"messages": TALK, "tools": None, "documents": None, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}

# Expressions, each printed.
EXPRESSIONS = r"""
messages[1:] | length | string ~ messages[::-1][0].content
'abcdef'[1:3], 'abcdef'[-2:], 'abcdef'[::-2], 'abcdef'[5:1:-1], [1,2,3,4][:-1]
messages | selectattr('role', 'equalto', 'user') | list | length
messages | rejectattr('role', '==', 'user') | map(attribute='content') | join(', ')
messages | map(attribute='role') | map('upper') | join('+')
{'a': 1, 'b': [2, 3]}, {'a': 1}['a'] + 1, 'a' in {'a': 1}, 'z' not in {'a': 1}
[1, 'a', "it's", 'say "x"', none, true, 1.0, 1e20, 1e-7, 123456789.123, (1,), (1, 2), {'k': [1]}, 'é\n\\']
{'a': 1, 'b': 2}.items() | list, {'a': 1}.keys() | list, {'a': 1}.values() | list
{'a': 1}.get('a'), {'a': 1}.get('b'), {'a': 1}.get('b', 'c'), {}.get('x') is none
'=' * 5, [1, 2] * 2, 3 * 'ab', '-' * 0, 'x' * -1
7 // 2, 7 / 2, 2 ** 3, 2 ** -1, 7 % 3, -7 // 2, -7 % 3, 7.5 // 2, -7.5 % 2, 1 + 1.0, 10 / 5
'%s is %d years, %.2f, %5s|%-5s|%05d %% %r %x' % ('x', 3, 2.5, 'a', 'b', 42, 'q', 255)
'%s' % 'a', '%(a)s' % {'a': 1}, 'a%%b' % ()
'{} {}'.format(1, 'b'), '{1}{0}'.format('a', 'b'), '{x}'.format(x=3), '{{}}'.format(), '{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}'.format('a', 'b', 'c', 42, 2.345, 1234567)
'{0.role} {0[content]}'.format(messages[1]), '{!r}'.format('a'), '{:x} {:#x} {:b} {:e} {:g} {:%}'.format(255, 255, 5, 12345.678, 0.00001, 0.25)
'a b  c'.split(), 'a b c'.split(' ', 1), 'a,b,c'.rsplit(',', 1), 'a  b'.split(' '), ' a b c '.split(none, 1), ' a b c '.rsplit(none, 1), 'abc'.split('x')
'  x '.strip() ~ '|' ~ 'xxaxx'.strip('x') ~ '|' ~ '\n a'.lstrip('\n') ~ '|' ~ 'a..'.rstrip('.') ~ '|' ~ 'abcba'.strip('ab')
'hello world-it\'s'.title(), 'hELLO wORLD'.capitalize(), 'Hello'.swapcase(), 'hello world (a) [b] {c} <d> e-f'|title, 'ß'.upper()
'abc'.startswith('a'), 'abc'.startswith(('x', 'a')), 'abc'.endswith('c'), 'abcabc'.find('c'), 'abcabc'.rfind('c'), 'x'.find('y'), 'aXbX'.replace('X', '-'), 'aXbX'.replace('X', '-', 1), 'abab'.count('ab')
'a-b-c'.partition('-'), 'a-b-c'.rpartition('-'), 'abc'.partition('x'), 'prefix_a'.removeprefix('prefix_'), 'a.txt'.removesuffix('.txt')
'a\nb\r\nc'.splitlines(), 'a\nb\n'.splitlines(true), '42'.zfill(5), '-42'.zfill(5), 'a'.center(4, '*'), 'ab'.center(5), 'a'.ljust(3) ~ '|', 'a'.rjust(3)
'a1'.isalnum(), 'a'.isalpha(), '12'.isdigit(), ' '.isspace(), 'A'.isupper(), 'a'.islower(), 'Ab Cd'.istitle(), ''.isdigit(), 'é'.isascii()
', '.join(['x', 'y']), ['a', 'b'] | join('-'), [1, none, true] | join(' '), 'abc' | join('.')
{'t': 'é<&>"\u2028', 'n': 1.0, 'b': true, 'z': none} | tojson
{'b': 1, 'a': [1, {'c': []}], 'd': {}} | tojson(indent=2)
{'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')), 'é😀' | tojson(ensure_ascii=true), [1, 2] | tojson(indent=4), {1: 2, none: 3, true: 4} | tojson, (1, 'a') | tojson
{'b': 1, 'a': [1, 2]} | tojson(none), [] | tojson(indent=2), {'a': {}} | tojson(indent=1), {'k': 'v'} | tojson(indent='\t')
2.5 | round, 3.5 | round, 2.567 | round(2), 2.1 | round(method='ceil'), 2.9 | round(0, 'floor'), 42 | round, 1234.5 | round(-2), 0.125 | round(2)
true is number, 1 is number, 1.5 is number, 'a' is number, true is integer, 1 is integer, 1.0 is float, true is boolean, none is none, none is not none, 'a' is string
[] is iterable, 'a' is iterable, 1 is iterable, {} is mapping, [] is sequence, 'a' is sequence, {} is sequence, x is defined, x is undefined, messages is defined
3 is odd, 4 is even, 9 is divisibleby 3, 9 is divisibleby(2), 1 is eq 1, 1 is ne 2, 1 is lt 2, 3 is ge 3, 1 is in [1, 2], 'a' is in 'abc', 'a' is lower, 'A' is upper, none is sameas none, true is true, 1 is true, false is false
1 < 2 < 3, 1 < 3 < 2, 'a' < 'b', [1, 2] < [1, 3], 1 == 1.0, true == 1, 'a' == 'a', [1] == [1], {'a': 1} == {'a': 1.0}, none == none, 1 != 2
x | default('d'), x | d('e'), '' | default('f'), '' | default('f', true), none | default('g'), none | default('g', boolean=true), 0 | default(1, true)
'a' if x else 'b', 'a' if messages, ('a' if false) is defined, 1 and 2, 0 or 'z', not 1, not '', none or 'n', 1 and 0
[3, 1, 2] | sort, ['b', 'A', 'c'] | sort, ['b', 'A', 'c'] | sort(case_sensitive=true), [3, 1, 2] | sort(reverse=true), messages | sort(attribute='content') | map(attribute='role') | list
[1, 2, 3] | sum, [[1], [2]] | sum(start=[]), messages | map(attribute='content') | map('length') | sum, [3, 1] | min, [3, 1] | max, [1, 2, 1] | unique | list, ['a', 'A'] | unique | list
[1, 2, 3] | first, [1, 2, 3] | last, 'abc' | first, 'abc' | last, [] | first is defined, 'abc' | reverse, [1, 2] | reverse | list, 'abc' | list
[1, 2, 3, 4, 5] | batch(2) | list, [1, 2, 3] | batch(2, 0) | list, [1, 2, 3, 4, 5] | slice(2) | list, [1, 2, 3] | select('odd') | list, [1, 2, 3] | reject('odd') | list, [0, 1, ''] | select | list
{'b': 1, 'a': 2} | dictsort, {'b': 1, 'a': 2} | dictsort(by='value'), {'b': 1, 'a': 2} | dictsort(reverse=true), {'a': 1} | items | list
messages | groupby('role') | map(attribute='grouper') | list, (messages | groupby('role'))[1].list | length, messages | groupby('role') | map(attribute=0) | list
'a\nb\n\nc' | indent, 'a\nb' | indent(2, true), 'a\n\nb' | indent(2, blank=true), 'a\nb' | indent(width='> '), '' | indent
'  x ' | trim, 'xax' | trim('x'), 'a' | upper, 'A' | lower, 'ab cd' | capitalize, 'a-b' | replace('-', '+'), 'aaa' | replace('a', 'b', 2), 'a' | center(3), 'a b c' | wordcount
'hello big world' | truncate(9), 'hello big world' | truncate(9, true), 'hello big world' | truncate(9, false, '!', 0), 'short' | truncate(3), 12 | string, '%s-%s' | format('a', 1)
'3' | int, '3.7' | int, 'x' | int, 'x' | int(7), 3.9 | int, '0x1f' | int(0, 16), true | int, '2.5' | float, 'y' | float, 'y' | float(1.5), none | int, -3 | abs, -2.5 | abs
'<a&"\'>' | e ~ ('x' | safe) ~ (messages[0] | attr('role') is defined)
range(3) | list, range(1, 6, 2) | list, range(5, 0, -2) | list, dict(a=1, b='x'), dict({'a': 1}, b=2), namespace(a=1).a
messages[0].role, messages[0]['role'], messages[0].nothing is defined, messages[7] is defined, messages[-1].role, 'abc'[5] is defined, 'abc'[0], messages.0.role
'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1], 'a' ~ x, 1 ~ 2
'it' "'s" ' one', "tab\tnew\\n", '\x41\u00e9\101\q'
1_000, 0x1F, 0b101, 1e3, 1.5e-3, 1.0, -0.0, 100000000000000000.0, 12345678901234567890.0, 0.1 + 0.2
-2 ** 2, -3 | abs, 3 * 4 ~ 'x', (1, 2) + (3,), [1] + [2], not 1 == 2, 1 if 0 else 2 if 0 else 3
none | map('upper') | list, none | selectattr('a') | list, tools is none, documents is none, tools is defined, tools or 'no', enable_thinking is defined and enable_thinking is false
messages[0].content.upper().strip() | lower | replace('hi', 'x'), (messages | first).role, {'a': {'b': [10, 20]}}['a'].b[1], {'items': 1}['items'], {'get': 5}['get']
messages[1].items() | list, messages[1] | items | list, messages[1] | string, messages[0]
""".strip().split("\n")

# Whole templates.
TEMPLATES = [
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'].strip() + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}\n    {% set ns.n = ns.n + 1 %}\n<{{ m.role.upper() }}>{{ m.content | trim }}</{{ ns.n }}>{% endfor %}",
    "{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}{% for k, v in {'b': 2} | items %} {{ k }}={{ v }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{{ loop.index }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }} {% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ loop.nextitem.role if loop.nextitem is defined else '-' }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }} {% endfor %}",
    "{% macro turn(m, end='!') %}<{{ m.role }}>{{ end }}{% endmacro %}{{ turn(messages[0]) }}{{ turn(messages[1], end='?') }}{{ turn(end='.', m=messages[2]) }}",
    "{% macro f(a, b=a, c=[]) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1) }}{{ f(1, 2, 3, 4, 5) }}{{ f(1, x=2) }}",
    "{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(5) }}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{% endcall %}{% macro l(xs) %}{% for x in xs %}{{ caller(x) }};{% endfor %}{% endmacro %}{% call(y) l([1, 2]) %}<{{ y }}>{% endcall %}",
    "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }}{% if loop.index == 3 %}{% break %}{% endif %}{% else %}none{% endfor %}",
    "{% for x in [] %}{{ x }}{% else %}empty{% endfor %}{% for x in nothing %}{% else %} undefined{% endfor %}",
    "{% set a = 1 %}{% for i in [1, 2] %}{% set a = a + i %}{{ a }}{% endfor %}{{ a }}{% if true %}{% set a = 5 %}{% endif %}{{ a }}",
    "{% set x %}block {{ 1 + 1 }}{% endset %}{{ x | upper }}{% set y | upper | replace('A', 'b') %}aXa{% endset %}{{ y }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}{% set t = 1, 2 %}{{ t }}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}{% filter upper %}abc{{ 'd' }}{% endfilter %}{% raw %}{{ not }} {% x %}{% endraw %}{# gone #}!",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}{% for (a, b), c in [[[1, 2], 3]] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for i in range(3) recursive %}{{ i }}{% if loop.depth < 2 %}{{ loop([7]) }}{% endif %}{% endfor %}",
    "a\n{% if true %}\n  b\n  {% if true %}\n    c\n  {% endif %}\n{% endif %}\nd\n",
    "  {%- if true -%}  x  {%- endif %}  y\n  {%+ if true %}\n z{% endif +%}\n!\n\n",
    "{{- ' a' -}}   b  {{ 'c' -}}\n\n d {#- gone -#} e\n {# line #}\nf {%- set x = 1 %}\n\ng",
    "{% for m in messages %}\n{{ m.role }}\n{% endfor %}\n\n{{ 'x' }}\n{{ 'y' }}\n",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n    {{ m.content }}\n    {%- endif %}\n{%- endfor %}\n",
    "{% if messages[0].content is string and messages[0].content | length > 2 %}a{% elif 1 %}b{% else %}c{% endif %}{% if not tools %}no tools{% endif %}",
    "{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a': 1}}}{{ {}}}",
    "{% set ns = namespace() %}{% set ns.a = [1] %}{% set ns.b = ns.a + [2] %}{{ ns.b }}{% set ns.a = ns.a + [3] %}{{ ns.a }}{{ ns.b | length }}",
    "{% block title %}x{{ messages | length }}{% endblock %}{% block other scoped %}y{% endblock other %}",
    "{% set d = {'a': 1} %}{% set d = dict(d, b=2) %}{{ d }}{% for k in d %}{{ k }}{% endfor %}{{ d | length }}{{ d.a }}{{ d['b'] }}{% set e = dict(d, **{'c': 3}) %}{{ e }}",
    "{{ messages[-1]['content'][:3] }}{{ (messages[0].content ~ 'x') | length }}{{ messages | length - 1 }}{{ messages | map('string') | list | length }}",
    "{{ raise_exception('roles must alternate') }}",
    "{% if messages[0].role != 'system' %}{{ raise_exception('no ' ~ messages[0].role) }}{% endif %}",
    "{{ x.y }}", "{{ x + 1 }}", "{{ 'a' + 1 }}", "{{ x() }}", "{{ messages[0].content.nothing() }}", "{{ messages.append(1) }}", "{{ 1 / 0 }}",
    "{% if %}", "{% for x %}{% endfor %}", "{% unknown %}", "{{ 1 +", "{% if 1 %}", "{{ 'a }}", "{{ (1 }}", "{% endif %}", "{{ 'a' < 1 }}", "{{ {} | tojson(1, 2, 3, 4, 5) }}"[:0] + "{{ [1] | nofilter }}",
    "{{ 1 is notest }}", "{{ x | tojson }}", "{{ none + 1 }}", "{% set x.y = 1 %}", "{{ range(10 ** 7) }}", "{{ [1, 'a'] | sort }}", "{{ 'abc'.index('x') }}", "{{ '%d' % 'a' }}", "{{ '{}'.format() }}",
    "{% for i in 5 %}{% endfor %}", "{{ none | length }}", "{{ 1 in 2 }}", "{% macro f(a) %}{{ a.b }}{% endmacro %}{{ f() }}",
]


def render(source, variables):
    try:
        return {"text": environment().from_string(source).render(**variables)}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}


def cases():
    if len(sys.argv) > 1:
        for path in sorted(Path(sys.argv[1]).glob("*.jinja")):
            source = path.read_text()
            if "strftime_now" in source:
                source = source.replace("strftime_now(", "('2026-01-02' ~ ")
            for messages in (TALK, CALLS, CALLS[:2]):
                for tools in (None, TOOLS):
                    for more in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
                        variables = BASE | {"messages": messages, "tools": tools} | more
                        yield {"name": path.name, "template": source, "variables": variables} | render(source, variables)
        return
    for line in EXPRESSIONS:
        source = "{{ " + line + " }}"
        yield {"template": source, "variables": BASE} | render(source, BASE)
    for source in TEMPLATES:
        yield {"template": source, "variables": BASE} | render(source, BASE)


def main():
    everything = list(cases())
    # Variables are told once each.
    seen = []
    for case in everything:
        if case["variables"] not in seen:
            seen.append(case["variables"])
        case["variables"] = seen.index(case["variables"])
    print(json.dumps({"jinja2": jinja2.__version__, "variables": seen, "cases": everything}, ensure_ascii=False, indent=1))


main()
