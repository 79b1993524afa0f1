"""A tiny random Llama with a real tokenizer, made in a second, so that the suite stays fast."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hotswap.serving.base_model import BaseDirectory

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog while seven wizards box very quietly.",
    '{"item": "pizza", "size": "large", "quantity": 2}',
    "system user assistant You help. order one two three four five",
]
LLAMA_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,  # wide, so that greedy choices are not near ties
}


def make_tiny_base(
    directory: Path,
    *,
    seed: int = 0,
    name: str = "tiny",
    config: PretrainedConfig | None = None,
) -> BaseDirectory:
    """Write a two-layer Llama (hidden 64, 4 heads of 32 over 2 key-value heads), or what `config`
    says, its vocabulary and special tokens filled in."""
    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    made = config or LlamaConfig(**LLAMA_SIZES)
    made.vocab_size = tokenizer.get_vocab_size()
    made.bos_token_id, made.eos_token_id, made.pad_token_id = 1, 2, 2
    path = directory / name
    model = AutoModelForCausalLM.from_config(made)
    if config is not None:
        _randomize_vectors(model)
    model.save_pretrained(path)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(path)
    return BaseDirectory(path, name)


def with_unembedded_token(base: BaseDirectory, token: str, directory: Path) -> BaseDirectory:
    """A copy below `directory` whose tokenizer has one token more than the model embeds, as those
    have that were given a padding token afterwards."""
    path = shutil.copytree(base.path, directory / base.model_id)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens([token])
    tokenizer.save(str(path / "tokenizer.json"))
    return BaseDirectory(path, base.model_id)


@torch.no_grad()
def _randomize_vectors(model: PreTrainedModel) -> None:
    """Norms are made as ones and biases as zeros: nothing would show that they are left out."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += torch.randn(len(parameter)) * 0.2


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer
