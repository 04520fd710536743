"""Personal data in texts: e-mail and web addresses, card numbers, phone numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from ecrec_jax.types import InputError

FAR = "\u2e80-\uffff"   # Chinese, Japanese, Korean: no space parts them from an address
LETTER = rf"[^\W\d_{FAR}]"
WORD = rf"(?:[^\W{FAR}]|[.%+-])"
EMAIL = re.compile(rf"(?<!{WORD}){WORD}+@(?:(?:[^\W{FAR}]|-)+\.)+{LETTER}{{2,}}")
WEB = re.compile(rf"(?<![A-Za-z0-9])(?:https?://|www\.)[^\s<>\"{FAR}]*[^\s<>\".,;:!?)\]}}'{FAR}]", re.IGNORECASE)
DIGITS = re.compile(r"(?<![A-Za-z0-9_.,-])\d(?:[ -]?\d){13,}(?![A-Za-z0-9_-])")   # in groups, as cards print them
# the issuers' first digits and lengths
CARD = re.compile(r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
                  r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}")
LONGEST = 19   # digits
DIALLED = re.compile(r"\d(?:[\s()./-]*\d){6}")   # too few digits elsewhere


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it (ISO/IEC 7812-1, annex B)."""
    doubled = (2 * int(x) for x in digits[-2::-2])
    return (sum(int(x) for x in digits[-1::-2]) + sum(x - 9 * (x > 9) for x in doubled)) % 10 == 0


def cards(digits: str, start: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the card numbers in blank-separated groups of digits, from the left, the longest first: others of the groups
    may be an order's number or a date of expiry."""
    groups, first = [x.span() for x in re.finditer("[^ ]+", digits)], 0
    while first < len(groups):
        for last in reversed(range(first, min(first + LONGEST, len(groups)))):
            number = re.sub(r"\D", "", digits[groups[first][0] : groups[last][1]])
            if CARD.fullmatch(number) and luhn(number):
                yield start + groups[first][0], start + groups[last][1]
                first = last
                break
        first += 1


def phones(text: str, countries: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(start, end) of international numbers, and of those written as in one of the countries: grouped as it is done there, or in
    one piece if only a mobile phone has such a number."""
    import phonenumbers as pn

    for country in (None, *countries):
        leniency = pn.Leniency.STRICT_GROUPING if country else pn.Leniency.VALID
        for found in pn.PhoneNumberMatcher(text, country, leniency):
            mobile = pn.number_type(found.number) == pn.PhoneNumberType.MOBILE
            if "+" in found.raw_string or country and (mobile or re.search(r"\D", found.raw_string)):
                yield found.start, found.end


def found(text: str, countries: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, kind) of all personal data in a text, in order, none of them over another."""
    spans = [(*x.span(), "email") for x in EMAIL.finditer(text)] + [(*x.span(), "web") for x in WEB.finditer(text)]
    spans += [(*span, "card") for x in DIGITS.finditer(text) for span in cards(x[0], x.start())]
    if DIALLED.search(text):
        spans += [(*x, "phone") for x in phones(text, countries)]
    kept: list[tuple[int, int, str]] = []
    for span in spans:   # the kinds in this order: a phone number inside of an address is part of it
        if all(span[1] <= start or end <= span[0] for start, end, _ in kept):
            kept.append(span)
    return sorted(kept)


def cleaned(texts: Iterable[str | None], how: Literal["mask", "drop"], countries: Sequence[str]
            ) -> tuple[list[str | None], Counter[str]]:
    """The texts with '[email]', '[web]', '[card]' or '[phone]' for personal data, or null where there is some; how often each kind
    was found, and in how many `texts`.

    Raises:
        InputError: phonenumbers isn't installed, or doesn't know a country.
    """
    try:
        import phonenumbers
    except ImportError:
        raise InputError("looking for personal data needs phonenumbers: pip install -e '.[prepare]'") from None
    for country in countries:
        if country not in phonenumbers.SUPPORTED_REGIONS:
            raise InputError(f"countries: {country!r} is unknown; they are named like GB or US")
    left, count = [], Counter()
    for text in texts:
        spans = found(text, countries) if text else []
        count.update(kind for *_, kind in spans)
        count["texts"] += bool(spans)
        for start, end, kind in reversed(spans if how == "mask" else []):
            text = f"{text[:start]}[{kind}]{text[end:]}"
        left.append(None if spans and how == "drop" else text)
    return left, count
