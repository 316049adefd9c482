"""Reading JSON that nobody has proven yet: strictly, so that every later reader sees the same."""

import json
import math
from typing import Any

import msgspec

from gateway.rejections import BODY_MALFORMED, Rejection


def members(text: bytes, where: str) -> dict[str, msgspec.Raw]:
    """Give the members of one JSON object, in order, each as its exact bytes without blanks around.

    This is the cheap look, for text that anybody may have sent; what rests on it must still pass
    `undisputed`. Raises Rejection(body_malformed), and nothing else, for what is not UTF-8 or not
    one complete JSON object: a byte order mark, NaN, a broken escape, half a surrogate pair,
    nesting deeper than 1,024. `where` names the text in the refusal.
    """
    # The causes are left out: they hold parts of the text, and so payload.
    try:
        text.decode()
        return _MEMBERS.decode(text)
    except UnicodeError:
        raise Rejection(BODY_MALFORMED, f"{where} is not UTF-8") from None
    except RecursionError:
        raise Rejection(BODY_MALFORMED, f"{where} is nested too deep") from None
    except msgspec.MsgspecError:
        raise Rejection(BODY_MALFORMED, f"{where} is not one complete JSON object") from None


def undisputed(text: bytes, where: str) -> None:
    """Refuse what readers disagree about, at any depth, in a text whose `members` were taken.

    Raises Rejection(body_malformed), and nothing else, for a name that stands twice in one object
    (however it is escaped), floats beyond all bounds, integers of more than 4,300 digits, and
    nesting deeper than Python's recursion limit.
    """
    try:
        _WHOLE.decode(text.decode())
    except RecursionError:
        raise Rejection(BODY_MALFORMED, f"{where} is nested too deep") from None
    except _Disputed as error:
        raise Rejection(BODY_MALFORMED, f"{where} {error}") from None
    except ValueError:
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


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Disputed("holds a number beyond what a float can hold")
    return number


# msgspec is fast but takes the last of two equal names, and skips what it does not build; so
# Python's parser reads everything once more before anything is accepted.
_WHOLE = json.JSONDecoder(object_pairs_hook=_no_name_twice, parse_float=_finite)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
