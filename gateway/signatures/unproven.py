"""Reading JSON that nobody has proven yet: strictly, so that every later reader sees the same."""

import json
import math
from typing import Any, NoReturn

import msgspec

from gateway.rejections import BODY_MALFORMED, Rejection


def members(text: bytes, where: str) -> dict[str, msgspec.Raw]:
    """Give the members of one JSON object, in order, each as its exact bytes without blanks around.

    Raises Rejection(body_malformed), and nothing else, for what is not UTF-8 or not one complete
    JSON object, and for what readers disagree about, at any depth: a byte order mark, NaN and
    infinities, a name that stands twice in one object (however it is escaped), half a surrogate
    pair, integers of more than 4,300 digits, and nesting deeper than Python's recursion limit.
    `where` names the text in the refusal.
    """
    # The causes are left out: a JSONDecodeError holds the whole text, and so payload.
    try:
        _WHOLE.decode(text.decode())
        return _MEMBERS.decode(text)
    except RecursionError:
        raise Rejection(BODY_MALFORMED, f"{where} is nested too deep") from None
    except UnicodeError:
        raise Rejection(BODY_MALFORMED, f"{where} is not UTF-8") from None
    except _Disputed as error:
        raise Rejection(BODY_MALFORMED, f"{where} {error}") from None
    except ValueError:  # JSONDecodeError, the limit of digits, and msgspec's own
        raise Rejection(BODY_MALFORMED, f"{where} is not one complete JSON object") from None


def members_within(value: msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Give the members of an object that lies within a text `members` has read, likewise."""
    return _MEMBERS.decode(value)


class _Disputed(Exception):  # noqa: N818 - a finding, turned into a Rejection at once
    """Something that is read in different ways; the text completes "the body ..."."""


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Disputed("holds a name twice in one object")
    return found


def _not_json(_word: str) -> NoReturn:
    raise _Disputed("holds NaN or an infinity")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Disputed("holds a number beyond what a float can hold")
    return number


# msgspec is faster but takes the last of two equal names, and skips what it does not build
# without looking at its UTF-8; so Python's parser reads everything once, then msgspec splits.
_WHOLE = json.JSONDecoder(
    object_pairs_hook=_no_name_twice, parse_constant=_not_json, parse_float=_finite
)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
