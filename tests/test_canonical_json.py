r"""What the canonical text owes: one text for all spellings of a JSON value, the one PHP writes.

Whether PHP writes it is asked of PHP itself by `make verify` (verify_php.py).
"""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.canonical_json import php_json
from gateway.send import fixtures

SPELLINGS = {
    b"{}": b"{}",
    b"[ ]": b"[]",
    b" \t\r\n[ 1 , 2 ] \n": b"[1,2]",
    b'{ "b" : 1 , "a" : { } }': b'{"b":1,"a":{}}',
    b'{"10":1,"2":2,"":3}': b'{"10":1,"2":2,"":3}',
    b'"a b\tc"'.replace(b"\t", rb"\t"): rb'"a b\tc"',
    b'"/"': rb'"\/"',
    rb'"\/"': rb'"\/"',
    rb'"\\/"': rb'"\\\/"',
    rb'"\\\/"': rb'"\\\/"',
    rb'"\\\\/"': rb'"\\\\\/"',
    '"K\u00d6LN"'.encode(): rb'"K\u00d6LN"',
    rb'"K\u00D6LN"': rb'"K\u00d6LN"',
    rb'"\u004b"': b'"K"',
    '"\U0001f600"'.encode(): rb'"\ud83d\ude00"',
    rb'"\uD83D\uDE00"': rb'"\ud83d\ude00"',
    '"\u2028\ufeff\uffff"'.encode(): rb'"\u2028\ufeff\uffff"',
    b'"\x7f"': b'"\x7f"',
    rb'"\u007f"': b'"\x7f"',
    rb'"\u007F\/\\u007f"': b'"\x7f\\/\\\\u007f"',
    rb'"\\u007f"': rb'"\\u007f"',
    '"\u0080"'.encode(): rb'"\u0080"',
    rb'"\u0008\u0009\u000a\u000c\u000d"': rb'"\b\t\n\f\r"',
    rb'"\u0000\u000b\u001F"': rb'"\u0000\u000b\u001f"',
    rb'"\u0022\u005c\u002f"': rb'"\"\\\/"',
    b'"<>&\'`"': b'"<>&\'`"',
    rb'{"\u006bey \"/\" ":[true , false,null]}': rb'{"key \"\/\" ":[true,false,null]}',
}


@pytest.mark.parametrize(("received", "canonical"), SPELLINGS.items())
def test_each_rule_of_phps_spelling(received, canonical):
    """Blanks go, names keep their order, and every character is escaped as PHP does."""
    assert php_json(received) == canonical
    assert php_json(canonical) == canonical


@pytest.mark.parametrize(
    "number",
    ["0", "-0", "1.0", "-0.0", "1e5", "1E+05", "0.30000000000000004", "1.5e-300", "9" * 5000],
)
def test_numbers_stay_as_received(number):
    """No number is read, so none loses a digit; two spellings of one number are two texts."""
    assert php_json(f'[ {number} , {{"a" : {number}}} ]'.encode()) == (
        f'[{number},{{"a":{number}}}]'.encode()
    )


def test_half_a_surrogate_pair_stays_an_escape():
    """What PHP cannot write is kept, in lower case, and never joined with what is not its half."""
    for half in ("d800", "dbff", "dc00", "dfff"):
        assert php_json(rf'"\u{half.upper()}"'.encode()) == rf'"\u{half}"'.encode()
        assert php_json(rf'"a\u{half}/"'.encode()) == rf'"a\u{half}\/"'.encode()
    for apart in (rb'"\ud83d\u007f\ude00"', rb'"\ud83d\u0041\ude00"', rb'"\ude00\ud83d"'):
        text = php_json(apart)
        assert php_json(text) == text
        assert json.loads(text) == json.loads(apart)


@pytest.mark.parametrize(
    "fixture", fixtures("treezor"), ids=lambda fixture: f"treezor/{fixture.case}"
)
def test_deliveries_are_spelled_as_the_documented_recipe_does(fixture):
    """For what Treezor sends, the text is compact JSON in ASCII with escaped slashes."""
    recipe = json.dumps(json.loads(fixture.body), separators=(",", ":")).replace("/", r"\/")
    assert php_json(fixture.body) == recipe.encode()


def test_nesting_needs_no_stack():
    """Text nested deeper than any parser goes has a canonical text too."""
    assert php_json(b"[ " * 200_000 + b"]" * 200_000) == b"[" * 200_000 + b"]" * 200_000


AWKWARD = '"\\/ \x00\x08\t\n\x0b\x0c\r\x1f\x7f\x80éÖ\u2028\ufeff\uffff\U0001f600\U0010ffffaub{}[],:'
texts = st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(codec="utf-8")), max_size=12)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=5)),
    max_leaves=20,
)
SHORT = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
OBLIGED = re.compile(r'["\\\x00-\x1f]')


def spelled(value, chance: random.Random) -> str:
    """Write a value with random blanks and, for each character, a random one of its spellings."""

    def blank() -> str:
        return "".join(chance.choices(" \t\r\n", k=chance.choice([0, 0, 1, 3])))

    def unit(number: int) -> str:
        return "\\u" + "".join(chance.choice([c, c.upper()]) for c in f"{number:04x}")

    def character(one: str) -> str:
        ways = [] if OBLIGED.match(one) else [one, one, one]
        if one in SHORT:
            ways.append("\\" + SHORT[one])
        utf16 = one.encode("utf-16-be")
        ways.append(
            "".join(unit(int.from_bytes(utf16[at : at + 2])) for at in (0, 2)[: len(utf16) // 2])
        )
        return chance.choice(ways)

    def string(text: str) -> str:
        return '"' + "".join(map(character, text)) + '"'

    def joined(parts: list[str]) -> str:
        return f"{blank()},{blank()}".join(parts) + blank()

    if isinstance(value, str):
        return string(value)
    if isinstance(value, list):
        return "[" + blank() + joined([spelled(one, chance) for one in value]) + "]"
    if isinstance(value, dict):
        pairs = [
            f"{string(name)}{blank()}:{blank()}{spelled(one, chance)}"
            for name, one in value.items()
        ]
        return "{" + blank() + joined(pairs) + "}"
    return json.dumps(value)


@given(value=values, chance=st.randoms(use_true_random=False))
def test_every_spelling_of_a_value_has_the_same_text(value, chance):
    """Texts that differ only in blanks and escapes have one canonical text, which is its own."""
    one = php_json(spelled(value, chance).encode())
    assert one == php_json(spelled(value, chance).encode())
    assert one == php_json(one)
    assert one == php_json(json.dumps(value, indent=1, ensure_ascii=False).encode())


@given(value=values, chance=st.randoms(use_true_random=False))
def test_the_canonical_text_says_the_same(value, chance):
    """It is read as the same value in the same order, so different values never share a text."""
    text = php_json(spelled(value, chance).encode()).decode("ascii")
    assert json.dumps(json.loads(text)) == json.dumps(value)


@given(value=values)
def test_nothing_of_it_is_spelled_otherwise_than_php_does(value):
    """All is ASCII, no blank stands outside strings, every slash and no DEL is escaped."""
    text = php_json(json.dumps(value, indent=2).encode()).decode("ascii")
    assert not re.search(r"[ \t\r\n]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text))
    assert "/" not in text.replace("\\/", "")
    escapes = re.findall(r"\\(?:u(.{4})|.)", text)
    for code in filter(None, escapes):
        assert code == code.lower()
        assert int(code, 16) < 0x20 or int(code, 16) > 0x7F
