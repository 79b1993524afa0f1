"""Records what the trained adapter expects on a few rows, so that a server can check itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from tokenizers import Tokenizer

from hotswap.registry.domain.manifest import Probe, TopTokens
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.rendering import render
from hotswap.training.data.example import Example
from hotswap.training.data.tokens import encode

NUM_PROBES = 3
MAX_ANSWER_TOKENS = 8
NUM_TOP = 8
_DECIMALS = 4  # of a log-probability: far below what int8 weights change


@dataclass(frozen=True, slots=True)
class ProbePrompt:
    """The part of a probe that is known before training: the first turn of a row."""

    messages: tuple[dict[str, str], ...]
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


def probe_prompts(
    examples: Sequence[Example], prompt: PromptFormat, tokenizer: Tokenizer
) -> tuple[ProbePrompt, ...]:
    """The first NUM_PROBES examples, each up to its first answer's first tokens."""
    prompts = []
    for example in examples[:NUM_PROBES]:
        first = next(i for i, m in enumerate(example.messages) if m["role"] == "assistant")
        messages = tuple(dict(message) for message in example.messages[:first])
        answer = encode(example.messages[first]["content"], tokenizer)
        prompts.append(
            ProbePrompt(
                messages=messages,
                prompt_ids=tuple(encode(render(prompt, messages), tokenizer)),
                answer_ids=tuple(answer[:MAX_ANSWER_TOKENS]),
            )
        )
    return tuple(prompts)


@torch.no_grad()
def record_probes(model: PeftModel, prompts: Sequence[ProbePrompt]) -> tuple[Probe, ...]:
    """Log-probabilities through transformers' own forward pass of `model`, which is the untouched
    base with the adapter that is published, in eval mode.

    It is not the code that serves: what both agree on was not made equal by a shared fault.
    """
    return tuple(_record(model, prompt) for prompt in prompts)


def _record(model: Any, prompt: ProbePrompt) -> Probe:
    ids = (*prompt.prompt_ids, *prompt.answer_ids)
    given = torch.tensor([ids], device=model.device)
    logits = model(input_ids=given).logits[0, len(prompt.prompt_ids) - 1 :]
    values, token_ids = torch.log_softmax(logits.float(), -1).topk(NUM_TOP)  # (positions, NUM_TOP)
    return Probe(
        messages=prompt.messages,
        token_ids=ids,
        num_prompt_tokens=len(prompt.prompt_ids),
        top=tuple(
            TopTokens(
                token_ids=tuple(ids_of_row),
                logprobs=tuple(round(value, _DECIMALS) for value in row),
            )
            for ids_of_row, row in zip(token_ids.tolist(), values.tolist(), strict=True)
        ),
    )
