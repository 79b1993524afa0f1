"""Guesses a sequence's next tokens by looking up what followed its last ones before: prompt lookup
(Saxena 2023). Tokens and counts only.

A guess never changes an answer: guesses are computed behind the last token in one step, and those
that the model would have chosen itself are kept. It pays where an answer copies from its prompt and
few sequences run, for then a step costs little more for a few rows than for one.
"""

from __future__ import annotations

from dataclasses import dataclass

NGRAMS = (4, 3, 2)
"""So many last tokens are looked up, the longest first."""
FIRST_GUESS = 4
MAX_PAUSE = 64
"""Tokens for which a sequence with wrong guesses makes no more, at the most."""


@dataclass(slots=True)
class GuessCounts:
    """Guesses of all sequences."""

    num_guessed: int = 0
    num_accepted: int = 0


class Lookup:
    """Where the tokens of one sequence stood before, and how good its guesses were.

    Invariant: an n-gram's place is where it ended last, the end of the sequence left out. Wrong
    guesses cost at most one step in MAX_PAUSE once they have been wrong for a while.
    """

    def __init__(self, max_guess: int, counts: GuessCounts) -> None:
        self._max_guess = max_guess
        self._tally = counts
        self._places: list[dict[tuple[int, ...], int]] = [{} for _ in NGRAMS]
        self._num_known = 0
        self._num_next = min(FIRST_GUESS, max_guess)
        self._num_misses = 0
        self._resume_at = 0  # tokens

    def guess(self, prompt_ids: list[int], output_ids: list[int], most: int) -> tuple[int, ...]:
        """Up to `most` tokens that may follow; none while guesses of this sequence do not pay."""
        num_tokens = len(prompt_ids) + len(output_ids)
        num = min(most, self._num_next)
        if num < 1 or num_tokens < self._resume_at:
            return ()
        tokens = prompt_ids + output_ids
        self._learn_places(tokens)
        for n, places in zip(NGRAMS, self._places, strict=True):
            if (place := places.get(tuple(tokens[-n:]))) is not None:
                period = num_tokens - place  # a guess that reaches the end goes on from `place`
                return tuple(tokens[place + i % period] for i in range(num))
        return ()

    def learn(self, num_guessed: int, num_accepted: int, num_tokens: int) -> None:
        """What became of a guess, and how long the sequence is now."""
        self._tally.num_guessed += num_guessed
        self._tally.num_accepted += num_accepted
        if num_accepted == num_guessed:
            self._num_next = min(2 * self._num_next, self._max_guess)
        else:
            self._num_next = min(num_accepted + 2, self._max_guess)
        self._num_misses = 0 if num_accepted else self._num_misses + 1
        if self._num_misses:
            self._resume_at = num_tokens + min(2**self._num_misses, MAX_PAUSE)

    def _learn_places(self, tokens: list[int]) -> None:
        for end in range(self._num_known + 1, len(tokens)):
            for n, places in zip(NGRAMS, self._places, strict=True):
                if end >= n:
                    places[tuple(tokens[end - n : end])] = end
        self._num_known = len(tokens) - 1
