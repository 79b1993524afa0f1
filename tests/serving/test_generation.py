"""Text of an answer as it grows: characters cut across tokens, and stop strings."""

from __future__ import annotations

import pytest

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.requests.generation import TextStream

TEXT = "naïve café 🦊 says hello STOP and more"


def feed(
    base: BaseDirectory, text: str, stops: list[str], *, min_tokens: int = 0
) -> tuple[list[str], bool]:
    """The pieces given out for the tokens of `text`, and whether a stop string ended it."""
    stream = TextStream(base.tokenizer, stops, min_tokens=min_tokens)
    pieces = []
    for token_id in base.tokenizer.encode(text).ids:
        piece, is_stopped = stream.push(token_id)
        pieces.append(piece)
        if is_stopped:
            return pieces, True
    rest, is_stopped = stream.flush()
    return [*pieces, rest], is_stopped


def test_the_pieces_joined_are_the_text(tiny_base: BaseDirectory) -> None:
    pieces, is_stopped = feed(tiny_base, TEXT, [])
    assert "".join(pieces) == TEXT
    assert not is_stopped


def test_no_piece_holds_half_a_character(tiny_base: BaseDirectory) -> None:
    pieces, _ = feed(tiny_base, TEXT, [])
    assert not any("�" in piece for piece in pieces)


@pytest.mark.parametrize("stop", ["STOP", "hello", " ", "🦊", "more"])
def test_text_ends_before_the_stop_string(tiny_base: BaseDirectory, stop: str) -> None:
    pieces, is_stopped = feed(tiny_base, TEXT, [stop])
    assert is_stopped
    assert "".join(pieces) == TEXT[: TEXT.index(stop)]


def test_no_part_of_a_stop_string_is_given_out(tiny_base: BaseDirectory) -> None:
    pieces, _ = feed(tiny_base, TEXT, ["STOP"])
    assert not any("S" in piece for piece in pieces)


def test_the_first_of_several_stop_strings_counts(tiny_base: BaseDirectory) -> None:
    pieces, _ = feed(tiny_base, TEXT, ["more", "STOP", "hello STOP"])
    assert "".join(pieces) == TEXT[: TEXT.index("hello STOP")]


def test_text_that_only_looked_like_a_stop_string_is_given_out_at_the_end(
    tiny_base: BaseDirectory,
) -> None:
    pieces, is_stopped = feed(tiny_base, "a hint: STO", ["STOP"])
    assert "".join(pieces) == "a hint: STO"
    assert not is_stopped


def test_a_stop_string_counts_only_behind_the_first_min_tokens(tiny_base: BaseDirectory) -> None:
    text = "one STOP two STOP three"
    num_first = len(tiny_base.tokenizer.encode("one STOP two").ids)
    pieces, is_stopped = feed(tiny_base, text, ["STOP"], min_tokens=num_first)
    assert is_stopped
    assert "".join(pieces) == "one STOP two "
