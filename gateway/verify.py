"""Re-verification: kept raw records against the secrets of today, and what no longer holds."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec
from confluent_kafka import Message

from gateway.delivery import HTTP_HEADER_PREFIX, Provenance
from gateway.headers import Headers
from gateway.receive import Endpoint
from gateway.rejections import Rejection
from gateway.signatures import Acknowledged, Verified
from gateway.signatures.bearer import BearerToken

MOST_SHOWN = 10
_WIDTH = 26
_NAME = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
_TITLES = {
    "holds": "holds",
    "cannot_be_verified": "cannot be verified again",
    "unknown_endpoint": "endpoint unknown here",
    "no_longer_holds": "no longer holds",
}

RecordHeaders = Sequence[tuple[str, bytes | None]]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a second look says of one raw record.

    `why` is a rejection's reason, or one of: no_provenance, other_provider, other_scheme,
    other_authenticity (it claims another proof than it bears), tombstone, no_event; where it
    cannot be verified again, token or unsigned. `rotated` says that another key than at
    receipt holds now.
    """

    state: Literal["holds", "no_longer_holds", "cannot_be_verified", "unknown_endpoint"]
    endpoint: str
    key_id: str = ""
    why: str = ""
    rotated: bool = False


class _NoLongerHolds(Exception):  # noqa: N818 - a verdict, not an error of the program
    """Why a record no longer holds, in one word."""


def verified_again(
    provider: str, headers: RecordHeaders, body: bytes | None, endpoints: Mapping[str, Endpoint]
) -> Verdict:
    """Verify a raw record of a provider's topic from its kept headers, as of its receipt."""
    name = "?"
    try:
        provenance = _provenance(provider, headers)
        if _NAME.fullmatch(provenance.endpoint):
            name = provenance.endpoint
        endpoint = endpoints.get(name)
        if endpoint is None:
            return Verdict(state="unknown_endpoint", endpoint=name)
        proof = _as_claimed(_proof(endpoint, headers, body, provenance), provenance)
    except _NoLongerHolds as end:
        return Verdict(state="no_longer_holds", endpoint=name, why=str(end))
    if proof.authenticity == "signed":
        rotated = proof.key_id != provenance.key_id
        return Verdict(state="holds", endpoint=name, key_id=proof.key_id, rotated=rotated)
    return Verdict(state="cannot_be_verified", endpoint=name, why=proof.authenticity)


def _provenance(provider: str, headers: RecordHeaders) -> Provenance:
    try:
        provenance = Provenance.from_headers(headers)
    except (KeyError, ValueError):
        # Nobody but a gateway writes raw topics: such a record is nobody's word.
        raise _NoLongerHolds("no_provenance") from None
    if provenance.provider != provider:
        raise _NoLongerHolds("other_provider")
    return provenance


def _proof(
    endpoint: Endpoint, headers: RecordHeaders, body: bytes | None, provenance: Provenance
) -> Verified:
    """Give what the endpoint's scheme proves now of what was kept."""
    if endpoint.provider.name != provenance.provider:
        raise _NoLongerHolds("other_provider")
    if body is None:
        raise _NoLongerHolds("tombstone")
    scheme = endpoint.scheme
    if isinstance(scheme, BearerToken):  # credentials are never kept
        key_id = provenance.key_id
        return Verified(scheme=scheme.names[0], key_id=key_id, signed=body, authenticity="token")
    sent = [
        (name.removeprefix(HTTP_HEADER_PREFIX), value.decode("ascii", "replace"))
        for name, value in headers
        if name.startswith(HTTP_HEADER_PREFIX) and value is not None
    ]
    try:
        found = scheme.verify(Headers(sent), body, provenance.received_at / 1000)
    except Rejection as rejection:
        raise _NoLongerHolds(rejection.reason.label) from None
    if isinstance(found, Acknowledged):
        raise _NoLongerHolds("no_event")
    return found


def _as_claimed(proof: Verified, provenance: Provenance) -> Verified:
    """Give the proof if it is the one the record claims to bear: consumers believe the claim."""
    if proof.scheme != provenance.scheme:
        raise _NoLongerHolds("other_scheme")
    if proof.authenticity != provenance.authenticity:
        raise _NoLongerHolds("other_authenticity")
    return proof


class Findings:
    """Counts verdicts, and keeps the coordinates of the first that no longer hold."""

    def __init__(self, most_shown: int = MOST_SHOWN) -> None:
        self._counts: Counter[Verdict] = Counter()
        self._shown: list[str] = []
        self._most_shown = most_shown

    def note(self, verdict: Verdict, coordinates: str) -> None:
        """Take note of one record."""
        self._counts[verdict] += 1
        if verdict.state == "no_longer_holds" and len(self._shown) < self._most_shown:
            self._shown.append(f"  {coordinates}  {verdict.endpoint}: {verdict.why}")

    def take(
        self,
        provider: str,
        messages: Sequence[Message],
        endpoints: Mapping[str, Endpoint],
        only: str = "",
    ) -> None:
        """Verify consumed records again; with `only`, those of one endpoint are noted."""
        for message in messages:
            headers: RecordHeaders = message.headers() or []  # type: ignore[assignment] # consumed ones are always a list with values of bytes
            verdict = verified_again(provider, headers, message.value(), endpoints)
            if only in {"", verdict.endpoint}:
                coordinates = f"{message.topic()}/{message.partition()}/{message.offset()}"
                self.note(verdict, coordinates)

    @property
    def broken(self) -> int:
        """How many no longer hold."""
        return sum(
            count for verdict, count in self._counts.items() if verdict.state == "no_longer_holds"
        )

    def why_nothing(self, only: str = "") -> str:
        """Say why nothing was verified, "" if something was; `only` is as `take` was told."""
        if not self._counts:
            return f"there is no record{f' of {only}' if only else ''} in this range"
        if all(verdict.state == "unknown_endpoint" for verdict in self._counts):
            return "none of these endpoints is configured here"
        return ""

    def lines(self, topic: str) -> Iterator[str]:
        """Say what was found; nothing of what the records hold."""
        yield f"{topic}: {self._counts.total():,} records looked at"
        rotated = 0
        for state, title in _TITLES.items():
            whose: Counter[str] = Counter()
            for verdict, count in self._counts.items():
                if verdict.state == state:
                    detail = f" by {verdict.key_id}" if verdict.key_id else ""
                    whose[
                        f"{verdict.endpoint}{detail or ' ' * bool(verdict.why)}{verdict.why}"
                    ] += count
                    rotated += count * verdict.rotated
            listed = ", ".join(f"{name} {count:,}" for name, count in whose.most_common())
            yield f"  {title:<{_WIDTH}}{whose.total():>9,}   {listed}".rstrip()
        if rotated:
            yield f"{rotated:,} hold by another key than at receipt"
        if self._shown:
            yield f"no longer hold, the first {len(self._shown)} of {self.broken:,}:"
            yield from self._shown
