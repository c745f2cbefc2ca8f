import sys

import pytest

from sidtool.base.errors import DataError
from sidtool.model.prompt.frames import render
from tests.models import tiny_tokenizer

MESSAGES = [{"role": "user", "content": "hello"}]
LOOP = "{% for a in range(100000) %}"
NUMBER = "{{ messages | length }}"


@pytest.mark.parametrize(
    "template",
    [
        f"{LOOP}{LOOP}{LOOP}x",
        f"{LOOP}{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}{{% endfor %}}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'a' * 10000000000 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ lipsum(n=100000) }}",
        "{% set ns = namespace(x='a') %}" + "{% set ns.x = ns.x ~ ns.x %}" * 40 + "{{ ns.x }}",
        "{% set ns = namespace(x=['a']) %}" + "{% set ns.x = ns.x + ns.x %}" * 40,
        "{% set ns = namespace(x=7) %}"
        + "{% for a in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
        "x" * 300_000,
        f"{LOOP}{{{{ messages }}}}{{% endfor %}}",
        "{{ " + "(" * 10_000,
        "{{ messages.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception('no') }}",
        "{{ raise_exception('a\nb') }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ nothing() }}",
    ],
    ids=lambda template: template[:40],
)
def test_a_template_is_limited(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidtool.model.prompt.frames.SECONDS", 0.3)
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = template
    with pytest.raises(DataError, match="chat template") as caught:
        render(tokenizer, MESSAGES)
    assert str(caught.value).isprintable()
    assert sys.gettrace() is None
