"""The canonical text against PHP's own json_encode: run by `make verify`, never by `make test`.

Needs php (Debian package php-cli). One PHP process answers for all texts.

What PHP does to a value before it is written is no question of spelling, and is shown below
apart: 1.0 becomes 1 and -0 becomes 0, integers beyond 64 bits become floats, and floats get PHP's
own form (1.0e+22). Names that look like integers keep their place, {} and [] stay apart: objects
are read as objects. Whatever PHP writes itself, floats included, has exactly PHP's text as
canonical text.
"""

import base64
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.canonical_json import php_json
from gateway.send import fixtures
from tests.test_canonical_json import AWKWARD, SPELLINGS, spelled

SCRIPT = Path(__file__).with_name("json_encode.php")
PHP_INT_MAX = 2**63 - 1
CASES = 5000


@pytest.fixture(scope="module", autouse=True)
def php() -> str:
    """PHP is there, or the run fails naming it."""
    found = shutil.which("php")
    if found is None:
        pytest.fail("php is not installed; it is in Debian's package php-cli")
    return found


def asked(php: str, texts: list[bytes]) -> list[tuple[bytes, bytes] | None]:
    """Ask PHP for its text of each value and for another spelling; None where it cannot read it."""
    assert not any(b"\n" in text for text in texts)
    ran = subprocess.run(
        [php, "-n", str(SCRIPT)],
        input=b"".join(text + b"\n" for text in texts),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert not ran.stderr
    answers = ran.stdout.splitlines()
    assert len(answers) == len(texts)
    return [
        None if line == b"-" else tuple(map(base64.b64decode, line.split(b" "))) for line in answers
    ]


def one_line(value, chance: random.Random) -> bytes:
    """Spell a value at random, in one line."""
    return spelled(value, chance).replace("\n", " ").replace("\r", "\t").encode()


def text_of(chance: random.Random) -> str:
    """Make a text of awkward and of any characters."""

    def character() -> str:
        if chance.random() < 0.8:
            return chance.choice(AWKWARD)
        while True:
            number = chance.choice([0x7F, 0x7FF, 0xFFFF, 0x10FFFF])
            one = chr(chance.randint(0, number))
            if not "\ud800" <= one <= "\udfff":
                return one

    return "".join(character() for _ in range(chance.randint(0, 12)))


def name_of(chance: random.Random) -> str:
    """Make a name; PHP has no property whose name begins with NUL."""
    like_an_integer = chance.choice(["0", "1", "-1", "10", "2", "007", str(PHP_INT_MAX), "1.5"])
    return chance.choice([like_an_integer, "", text_of(chance).lstrip("\0")])


def value_of(chance: random.Random, depth: int = 4):
    """Make a value without floats, of integers that PHP holds."""
    kind = chance.randrange(8 if depth else 5)
    if kind >= 6:
        return {name_of(chance): value_of(chance, depth - 1) for _ in range(chance.randint(0, 4))}
    if kind == 5:
        return [value_of(chance, depth - 1) for _ in range(chance.randint(0, 4))]
    return [
        chance.choice([None, True, False]),
        chance.choice([0, 1, -1, PHP_INT_MAX, -PHP_INT_MAX, -PHP_INT_MAX - 1]),
        chance.randint(-PHP_INT_MAX, PHP_INT_MAX),
        text_of(chance),
        text_of(chance),
    ][kind]


def test_php_writes_the_canonical_text_of_every_value_without_floats(php):
    """Whatever the spelling received, canonical is what PHP reads from it and writes."""
    chance = random.Random(20_240)
    texts = [one_line(value_of(chance), chance) for _ in range(CASES)]
    texts += [text.strip() for text in SPELLINGS]
    for text, answer in zip(texts, asked(php, texts), strict=True):
        assert answer is not None, text
        assert php_json(text) == answer[0], text


def test_php_writes_the_canonical_text_of_every_delivery(php):
    """So it is for each recorded delivery."""
    texts = [json.dumps(json.loads(found.body)).encode() for found in fixtures("treezor")]
    for text, answer in zip(texts, asked(php, texts), strict=True):
        assert answer is not None
        assert php_json(text) == answer[0]


def test_every_spelling_php_itself_has_leads_to_its_plain_one(php):
    """With blanks, bare slashes and bare Unicode, PHP's text is canonically its text without.

    Floats too: once PHP has written a number, in whatever form, that form stays.
    """
    chance = random.Random(20_241)

    def number() -> float:
        return chance.choice([-1, 1]) * chance.random() * 10.0 ** chance.randint(-320, 300)

    texts = [
        one_line({"a/é": [value_of(chance), number(), float(chance.randint(0, 10**18))]}, chance)
        for _ in range(CASES)
    ]
    for text, answer in zip(texts, asked(php, texts), strict=True):
        assert answer is not None, text
        plain, otherwise = answer
        assert plain != otherwise
        assert php_json(otherwise) == plain, text
        assert php_json(plain) == plain, text


AGREED = ["0", "-1", "1.5", "0.1", "-0.25", "0.30000000000000004", str(PHP_INT_MAX), "1.0e+22"]
OTHERWISE = {
    "-0": "0",
    "-0.0": "-0",
    "1.0": "1",
    "2.50": "2.5",
    "1e5": "100000",
    "1e22": "1.0e+22",
    "1e-7": "1.0e-7",
    str(PHP_INT_MAX + 1): "9.223372036854776e+18",
    "9" * 30: "1.0e+30",
}


def test_numbers_php_holds_otherwise_are_written_otherwise(php):
    """These are read by PHP into another number or form; the canonical text keeps the received."""
    texts = [text.encode() for text in [*AGREED, *OTHERWISE]]
    for text, answer in zip(texts, asked(php, texts), strict=True):
        assert answer is not None
        assert php_json(text) == text
        assert answer[0].decode() == OTHERWISE.get(text.decode(), text.decode())


def test_what_php_cannot_read_it_could_not_have_written(php):
    """Half a surrogate pair, and a property whose name begins with NUL."""
    texts = [rb'"\ud800"', rb'"\udc00a"', rb'{"\u0000a":1}']
    assert asked(php, texts) == [None, None, None]
