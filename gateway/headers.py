"""The request headers as the schemes read them: lower-case names, each value at most once."""

from collections.abc import Iterable

from gateway.rejections import SIGNATURE_MALFORMED, Rejection


class Headers:
    """Request headers that remember which names came twice or could not be read.

    granian's `items()` keeps repeated names but drops values that are not ASCII, while `keys()`
    still lists their names: `names` is that list, so that a dropped value is noticed.
    """

    __slots__ = ("_doubled", "_unreadable", "_values")

    def __init__(self, items: Iterable[tuple[str, str]], names: Iterable[str] = ()) -> None:
        values: dict[str, str] = {}
        doubled: set[str] = set()
        for name, value in items:
            if name in values:
                doubled.add(name)
            values[name] = value
        self._values = values
        self._doubled = doubled
        self._unreadable = {name for name in names if name not in values}

    def get(self, name: str, default: str = "") -> str:
        """Give a header that proves nothing; the last one where it came twice."""
        return self._values.get(name, default)

    def proof(self, name: str) -> str | None:
        """Give a header that a signature depends on; None if it is absent.

        Raises Rejection(signature_malformed) if it came twice or holds other than ASCII.
        """
        if name in self._doubled:
            raise Rejection(SIGNATURE_MALFORMED, f"the header {name} came twice")
        if name in self._unreadable:
            raise Rejection(SIGNATURE_MALFORMED, f"the header {name} holds non-ASCII characters")
        return self._values.get(name)

    def kept(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Give those of the named headers that are present."""
        values = self._values
        return [(name, values[name]) for name in names if name in values]
