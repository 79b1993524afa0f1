from __future__ import annotations

import pytest

from hotswap.training.data.personal import is_card, personal_data


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to jane.doe+x@mail.example.org", ["e-mail"]),
        ("my card is 4111 1111 1111 1111, thanks", ["card"]),
        ("my card is 4111 1111 1111 1112, thanks", []),
        ("call +49 30 901820 or +1 650-253-0000", ["phone"]),
        ("order 1234567890123 of 2026-11-24", []),
        ("a@b and 3.14159265358979", []),
        ("nothing here", []),
    ],
)
def test_kinds_are_known_by_their_form(text: str, kinds: list[str]) -> None:
    assert list(personal_data(text)) == kinds


@pytest.mark.parametrize("number", ["79927398713", "5500005555555559", "378282246310005"])
def test_a_changed_digit_fails_the_check(number: str) -> None:
    assert is_card(number)
    for at, digit in enumerate(number):
        changed = number[:at] + str((int(digit) + 1) % 10) + number[at + 1 :]
        assert not is_card(changed)
