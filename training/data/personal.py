"""Personal data that is known by its form: e-mail addresses, card numbers, telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import phonenumbers

# Lengths are bounded (RFC 5321), so that no text takes quadratic time.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_CARD = re.compile(r"(?<![\d.])[2-6](?:[ -]?\d){12,18}(?![\d.])")
_HAS_DIGITS = re.compile(r"\d(?:.{0,2}\d){6}")


def personal_data(text: str) -> Iterator[str]:
    """The kinds that are in the text, each once: "e-mail", "card", "phone".

    A card number has 13 to 19 digits, begins with 2 to 6 as payment cards do, and passes the check
    of ISO/IEC 7812 (Luhn). A phone number is a valid one in international form, as Google's
    libphonenumber knows them.
    """
    if "@" in text and _EMAIL.search(text):
        yield "e-mail"
    if not _HAS_DIGITS.search(text):
        return
    if any(is_card(match.group()) for match in _CARD.finditer(text)):
        yield "card"
    if any(True for _ in phonenumbers.PhoneNumberMatcher(text, None)):
        yield "phone"


def redacted(text: str) -> str:
    """The text with [e-mail], [card] or [phone] in the place of each that `personal_data` finds."""
    text = _EMAIL.sub("[e-mail]", text)
    text = _CARD.sub(lambda match: "[card]" if is_card(match.group()) else match.group(), text)
    if not _HAS_DIGITS.search(text):
        return text
    for match in reversed(list(phonenumbers.PhoneNumberMatcher(text, None))):
        text = f"{text[: match.start]}[phone]{text[match.end :]}"
    return text


def is_card(number: str) -> bool:
    """Luhn: from the right every second digit is doubled, a sum of digits that ends in 0."""
    digits = [int(digit) for digit in reversed(number) if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return any(digits) and (sum(digits[::2]) + sum(doubled)) % 10 == 0
