"""The hot encoder: one Python function generated from the Avro schema.

Avro's binary form of a record is its fields one after the other, so the function reads a
Struct's attributes and joins byte strings: no dict, no validation, no search through unions.
fastavro stays the reference: tests hold every byte equal to it. It knows what our schema uses
(string, boolean, int, long, arrays and maps of strings, nullable scalars) and refuses the rest.
"""

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

_SHORT = 8192
"""Lengths and numbers below this are looked up; almost every one is."""

_INT = (-(1 << 31), (1 << 31) - 1)
_LONG = (-(1 << 63), (1 << 63) - 1)


def varint(number: int) -> bytes:
    """Encode a number as Avro does: zig-zag, then 7 bits a byte, least significant first."""
    rest = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append((rest & 0x7F) | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


_SHORT_VARINTS = tuple(varint(number) for number in range(_SHORT))


def _int(number: int) -> bytes:
    return _number(number, _INT)


def _long(number: int) -> bytes:
    return _number(number, _LONG)


def _number(number: int, bounds: tuple[int, int]) -> bytes:
    if 0 <= number < _SHORT:
        return _SHORT_VARINTS[number]
    if not bounds[0] <= number <= bounds[1]:
        raise OverflowError("a number does not fit its Avro type")
    return varint(number)


def _string(text: str) -> bytes:
    encoded = text.encode()
    size = len(encoded)
    return (_SHORT_VARINTS[size] if size < _SHORT else varint(size)) + encoded


_word = lru_cache(maxsize=4096)(_string)
"""For the words of a vocabulary, which come again with every event."""


def _strings(texts: tuple[str, ...]) -> bytes:
    if not texts:
        return b"\0"
    return b"".join((varint(len(texts)), *map(_string, texts), b"\0"))


def _string_map(entries: Mapping[str, str]) -> bytes:
    if not entries:
        return b"\0"
    pairs = (_string(key) + _string(value) for key, value in entries.items())
    return b"".join((varint(len(entries)), *pairs, b"\0"))


_ENCODERS: Mapping[str, str] = {"string": "_string", "int": "_int", "long": "_long"}


def compile_encoder(
    schema: Mapping[str, Any], repeating: Collection[str] = ()
) -> Callable[[Any], bytes]:
    """Generate the function that encodes a Struct with the schema's fields as attributes.

    `repeating` names the string fields whose values come again and again. Raises TypeError
    naming the field whose type it does not know.
    """
    lines = ["def encode(event, _empty=b'\\0', _true=b'\\1'):"]
    parts = []
    for index, field in enumerate(schema["fields"]):
        name = field["name"]
        if not name.isidentifier():
            raise TypeError(f"{name} is no name of a field")
        part = f"p{index}"
        lines += [f"    v = event.{name}", f"    {part} = {_expression(name, field['type'])}"]
        if name in repeating:
            lines[-1] = lines[-1].replace("_string(", "_word(")
        parts.append(part)
    lines.append(f"    return b''.join(({', '.join(parts)},))")
    names: dict[str, Any] = {
        "_string": _string,
        "_int": _int,
        "_long": _long,
        "_word": _word,
        "_strings": _strings,
        "_string_map": _string_map,
    }
    exec("\n".join(lines), names)  # noqa: S102 - built above from field names that are identifiers
    encode: Callable[[Any], bytes] = names["encode"]
    return encode


def _expression(name: str, kind: Any) -> str:  # noqa: PLR0911 - a table of types
    match kind:
        case "boolean":
            return "_true if v else _empty"
        case str() if kind in _ENCODERS:
            return f"{_ENCODERS[kind]}(v)"
        case {"type": "long", "logicalType": "timestamp-millis"}:
            return "_long(v)"
        case {"type": "array", "items": "string"}:
            return "_strings(v)"
        case {"type": "map", "values": "string"}:
            return "_string_map(v)"
        case ["null", "boolean"]:
            return "_empty if v is None else b'\\2\\1' if v else b'\\2\\0'"
        case ["null", str() as inner] if inner in _ENCODERS:
            return f"_empty if v is None else b'\\2' + {_ENCODERS[inner]}(v)"
        case _:
            raise TypeError(f"the encoder does not know the type of {name}: {kind}")
