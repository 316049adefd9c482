r"""The JSON text PHP's json_encode would have written: one spelling for all spellings of a value.

PHP's defaults (php.net/json_encode): no blanks, names in the order received, `/` as `\/`, what is
not ASCII as lower-case \uXXXX in UTF-16, DEL as it is, controls as \b \f \n \r \t or \u00xx.
`make verify` compares with PHP itself.
"""

import re
from json import JSONDecoder
from json.encoder import encode_basestring_ascii
from operator import methodcaller

# A plain string is already as PHP writes it; blanks and strings that are not plain stand apart.
_TOKENS = re.compile(
    r"""( [^"\ \t\n\r]* (?: "[\ !#-.0-\[\]-\x7f]*" [^"\ \t\n\r]* ){0,32} ) # as PHP writes it
        (?: [\ \t\n\r]+ | ( "[^"\\]* (?: \\.[^"\\]* )*" ) )?                  # anything else
    """,
    re.VERBOSE | re.DOTALL,
)
_groups = methodcaller("groups")
_STRING = JSONDecoder()


def php_json(raw: bytes) -> bytes:
    """Give the text PHP writes for the value of `raw`, which must be valid JSON in UTF-8.

    It depends on the value alone, whatever the blanks and escapes of `raw`, and is its own
    canonical text. Numbers stay as received, since PHP's own spelling (1.0 as 1, 1e22 as 1.0e+22,
    big integers as floats) would lose what was sent: two spellings of one number are two texts.
    Half of a surrogate pair, which PHP cannot write, stays an escape. Needs time linear in the
    length, at any depth.
    """
    # One by one: findall would keep the interpreter to itself until the last.
    found = map(_groups, _TOKENS.finditer(raw.decode()))
    return "".join(
        [spared + _string(other) if other else spared for spared, other in found]
    ).encode("ascii")


def _string(token: str) -> str:
    if "\\" in token or not token.isascii():
        text, _ = _STRING.raw_decode(token)
        # The encoder writes DEL as an escape, which no replacement could tell from `\\u007f`.
        parts = [encode_basestring_ascii(part)[1:-1] for part in text.split("\x7f")]
        token = '"' + "\x7f".join(parts) + '"'
    return token.replace("/", "\\/")
