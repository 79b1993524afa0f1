"""The prompt format renders what transformers renders."""

from __future__ import annotations

import pytest

from hotswap.registry.domain.errors import InvalidPrompt
from hotswap.registry.domain.prompts import Normaliser, PromptFormat
from hotswap.serving.rendering import render
from tests.refusals import refused

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = (
    "{{ bos_token }}{%- for m in messages %}\n"
    "    {%- if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}\n"
    "    {%- if loop.index > 9 %}{% break %}{% endif %}\n"
    "    {{- m.role + ': ' + m.content | trim + eos_token }}\n{%- endfor %}"
)
MESSAGES = [
    {"role": "user", "content": "  Größe <b>&</b>\n"},
    {"role": "assistant", "content": "ja"},
    {"role": "user", "content": "und {{ dann }}?"},
]


def make(template: str = CHATML, **fields: object) -> PromptFormat:
    return PromptFormat.model_validate(
        {"chat_template": template, "end_of_turn": "<|im_end|>", "bos_token": "<s>", **fields}
    )


@pytest.mark.parametrize("template", [CHATML, STRICT])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_rendering_equals_transformers(template: str, add_generation_prompt: bool) -> None:
    tokenizers = pytest.importorskip(
        "tokenizers", reason="needs tokenizers: pip install tokenizers"
    )
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers: pip install transformers"
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()),
        bos_token="<s>",
        eos_token="<|im_end|>",
        chat_template=template,
    )
    expected = tokenizer.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    rendered = render(make(template), MESSAGES, add_generation_prompt=add_generation_prompt)
    assert rendered == expected


def test_system_prompt_goes_in_front_when_there_is_none() -> None:
    text = render(make(system_prompt="Answer in SQL."), MESSAGES)
    assert text.startswith("<|im_start|>system\nAnswer in SQL.<|im_end|>")


def test_system_message_of_the_conversation_wins() -> None:
    messages = [{"role": "system", "content": "Mine."}, *MESSAGES]
    assert "Answer in SQL." not in render(make(system_prompt="Answer in SQL."), messages)


def test_normaliser_changes_user_messages_only() -> None:
    messages = [{"role": "assistant", "content": " a  b "}, {"role": "user", "content": " a  b "}]
    text = make("{% for m in messages %}[{{ m.content }}]{% endfor %}").model_copy(
        update={"normaliser": Normaliser.WHITESPACE}
    )
    assert render(text, messages) == "[ a  b ][a b]"


def test_template_that_refuses_says_why() -> None:
    with refused(InvalidPrompt, "no tools here"):
        render(make(STRICT), [{"role": "tool", "content": "x"}])


def test_template_that_does_not_compile_says_why() -> None:
    with refused(InvalidPrompt, "end of statement block"):
        render(make("{% if %}"), MESSAGES)


@pytest.mark.parametrize(
    "template",
    [
        "a\nb\n{{ 1/0 }}",
        "a\nb\n{{ raise_exception('no') }}",
        "a\nb\n{% if %}",
        "a\nb\n{{ messages + 1 }}",
        "{% for m in messages %}\n\n{{ m.content.nothing.at_all }}{% endfor %}",
    ],
)
def test_template_that_fails_names_its_line(template: str) -> None:
    with refused(InvalidPrompt, "line 3"):
        render(make(template), MESSAGES)


def test_template_cannot_reach_python() -> None:
    with pytest.raises(InvalidPrompt):
        render(make("{{ messages.__class__.__mro__[1].__subclasses__() }}"), MESSAGES)


def test_no_messages_is_an_error() -> None:
    with refused(InvalidPrompt, "empty"):
        render(make(), [])
