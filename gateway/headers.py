"""The request headers as the schemes read them: lower-case names, each value at most once."""

from collections.abc import Iterable, Sequence

from gateway.rejections import SIGNATURE_MALFORMED, Rejection


class Headers:
    """Request headers that remember which names came twice or could not be read.

    granian's `items()` keeps repeated names but drops values that are not ASCII, while `keys()`
    still lists their names: `names` is that list, so that a dropped value is noticed. It is
    looked at only when a header that matters is missing.
    """

    __slots__ = ("_items", "_names", "_values")

    def __init__(self, items: Iterable[tuple[str, str]], names: Iterable[str] = ()) -> None:
        self._items: Sequence[tuple[str, str]] = items if isinstance(items, list) else list(items)
        self._values: dict[str, str] = dict(self._items)
        self._names: Iterable[str] = names

    def get(self, name: str, default: str = "") -> str:
        """Give a header that proves nothing; the last one where it came twice."""
        return self._values.get(name, default)

    def all(self, name: str) -> list[str]:
        """Give every value of a header, in order."""
        if name not in self._values:
            return []
        return [value for found, value in self._items if found == name]

    def proof(self, name: str) -> str | None:
        """Give a header that a signature depends on; None if it is absent.

        Raises Rejection(signature_malformed) if it came twice or holds other than ASCII.
        """
        value = self._values.get(name)
        if value is None:
            self._names = tuple(self._names)
            if name in self._names:
                raise Rejection(
                    SIGNATURE_MALFORMED, f"the header {name} holds non-ASCII characters"
                )
        elif len(self._values) < len(self._items) and self._came_twice(name):
            raise Rejection(SIGNATURE_MALFORMED, f"the header {name} came twice")
        return value

    def kept(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Give those of the named headers that are present."""
        values = self._values
        return [(name, values[name]) for name in names if name in values]

    def _came_twice(self, name: str) -> bool:
        return sum(found == name for found, _ in self._items) > 1
