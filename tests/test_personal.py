"""What is personal data in a text and what only looks like it."""

import pytest

from ecrec_jax.data import personal
from ecrec_jax.types import InputError

SHOWN = [   # (text, what is left of it)
    ("write to jane.doe+shop@mail.example.co.uk.", "write to [email]."),
    ("müller@köln.de, or (ann@example.com)", "[email], or ([email])"),
    ("(see https://www.example.com/a?b=1&c=2), please", "(see [web]), please"),
    ("www.Example.com/~jane!", "[web]!"), ("HTTP://EXAMPLE.COM", "[web]"),
    ("paid with 4111 1111 1111 1111", "paid with [card]"), ("5555555555554444", "[card]"), ("3782-822463-10005.", "[card]."),
    ("6011000990139424 and 2223003122003222", "[card] and [card]"), ("30569309025904", "[card]"), ("3530111333300000", "[card]"),
    ("call +44 20 7946 0018 now", "call [phone] now"), ("+1 (415) 555-2671", "[phone]"), ("+8613812345678", "[phone]"),
    ("(415) 555-2671 or 415-555-2671", "[phone] or [phone]"), ("ring 020 7946 0018", "ring [phone]"),
    ("mobile 07911 123456, 07911123456", "mobile [phone], [phone]"), ("电话13812345678", "电话[phone]"),
    ("邮箱a.b@example.com谢谢", "邮箱[email]谢谢"), ("网址www.example.com，谢谢", "网址[web]，谢谢"),
    ("卡号4111111111111111。", "卡号[card]。"), ("4111 1111 1111 1111 12/27", "[card] 12/27"),
    ("pay 4111111111111111 123 ok", "pay [card] 123 ok"), ("visa 4111 1111 1111 1111 12 27 123", "visa [card] 12 27 123"),
    ("no 5 4111 1111 1111 1111", "no 5 [card]"), ("order 12345 4111 1111 1111 1111", "order 12345 [card]"),
    ("ref 1234567 4111 1111 1111 1111", "ref 1234567 [card]"), ("3782 822463 10005 4111 1111 1111 1111", "[card] [card]"),
    ("a@example.com called +442079460018 about https://example.com/+442079460018", "[email] called [phone] about [web]"),
]
KEPT = ["", "RED SPOTTY CUP", "order 4155552671", "order no. 1234567890", "order #4111111111111112", "invoice 536365", "C536379",
        "tracking 9400110200881234567890", "barcode 4006381333931", "UPC 036000291452", "ISBN 978-0-306-40615-7",
        "12 x 34 cm", "12x34x56 cm", "120 x 200 x 16 cm, 15.5 kg", "1920x1080", "1,234,567.89", "£ 12.50", "$1 299.00", "3 @ 5.99",
        "2@9.99 each", "2011-12-10 08:26:00", "10/12/2011", "10.12.2011", "2010-2011", "01-Jan-1995", "20111210", "version 1.2.3.4",
        "SET OF 6 T-LIGHTS", "3.5mm x 25 pcs", "model 85123A", "100 200 300 400", "50% off", "@home", "e.g.this", "size 36-38-40",
        "4111 1111 1111 1112", "0000 0000 0000 0000", "1577836800", "part 4111-1111-1111-1111-22", "9780306406157",
        "T20-7946-0018X", "RETRO SPOT 1970 - 1980", "SKU 415 555", "24 pack 12 34 56", "24.99 - 49.99"]
COUNTRIES = ["GB", "US", "CN"]


@pytest.mark.parametrize("text,left", SHOWN)
def test_masked(text, left):
    texts, count = personal.cleaned([text, None], "mask", COUNTRIES)
    assert texts == [left, None] and count["texts"] == 1
    assert sum(count.values()) - 1 == left.count("[")
    assert personal.cleaned([text], "drop", COUNTRIES)[0] == [None]
    assert personal.cleaned(texts, "mask", COUNTRIES)[0] == texts   # once is enough


def test_long_texts_take_no_longer():
    """Runs of what an address may consist of are read once: read again from every character they would take for hours."""
    for run, left in (("a." * 50000, None), ("a-" * 50000, None), ("1 " * 50000, None), ("http://" * 10000, "[web]"),
                      ("@a" * 30000, None)):
        assert personal.cleaned([run], "mask", [])[0] == [run if left is None else left]


@pytest.mark.parametrize("text", KEPT)
def test_kept(text):
    assert personal.cleaned([text], "mask", COUNTRIES) == ([text], {"texts": 0})


def test_countries():
    """Without them only numbers with a + are known."""
    texts = ["020 7946 0018", "(415) 555-2671", "+44 20 7946 0018"]
    assert personal.cleaned(texts, "mask", [])[0] == [*texts[:2], "[phone]"]
    assert personal.cleaned(texts, "mask", ["GB"])[0] == ["[phone]", texts[1], "[phone]"]
    with pytest.raises(InputError, match="countries: 'UK' is unknown"):
        personal.cleaned(texts, "mask", ["UK"])


@pytest.mark.parametrize("digits,holds", [("79927398713", True), *((f"7992739871{i}", False) for i in (0, 1, 2, 4, 5, 6, 7, 8, 9)),
                                          ("4111111111111111", True), ("18", True), ("0", True), ("91", True), ("19", False)])
def test_luhn(digits, holds):
    """The example of the standard's text books, and every other check digit."""
    assert personal.luhn(digits) == holds
