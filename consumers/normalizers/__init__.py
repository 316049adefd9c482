"""The normalizer table: one module per provider, each a pure function of the raw bytes.

A normalizer module owns what a provider's words mean: narrow Structs of the fields it reads,
tables from their vocabulary to ours, and `normalize`. It never sees Kafka, a clock or a key.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from consumers.event import Ignored, Statement
from consumers.failures import Failure
from consumers.identity import KeyedBy
from consumers.normalizers import canary, onfido, pawapass, pleenk, plexy, treezor, veriff
from gateway.delivery import CANARY, Provenance

Normalized = Sequence[Statement | Failure] | Ignored
"""One entry per item of the delivery, in order: what it says, or why it cannot be read."""


class Normalizer(Protocol):
    """What the table asks of a provider's module."""

    REVISION: int
    """Raised whenever the same payload gives a different event."""

    NATIVE_TYPES: frozenset[str]
    """Every native type the mapping knows: the only ones that become metric labels."""

    UNMAPPED_FIELDS: frozenset[str]
    """Every field it hands to a Glossary: one whose word no table knows is counted by this name."""

    IGNORED_REASONS: frozenset[str]
    """Every reason for which it ignores a delivery; each is counted from 0."""

    KEYED_BY: KeyedBy
    """What the key of its events on the output topic names first."""

    SCHEMES: tuple[str, ...]
    """The gateway's schemes that tell how a body is to be read; empty where none matters."""

    RETRIED_FOR_DAYS: int
    """How long the provider may send one delivery again: duplicates are told for a day more."""

    def normalize(self, body: bytes, provenance: Provenance) -> Normalized:
        """Say what a raw body means. Raises Failure, or a msgspec error, if it cannot be read."""
        ...


NORMALIZERS: Mapping[str, Normalizer] = {
    "onfido": onfido,
    "pawapass": pawapass,
    "pleenk": pleenk,
    "plexy": plexy,
    "treezor": treezor,
    "veriff": veriff,
}

BUILT_IN: Mapping[str, Normalizer] = {CANARY: canary}
"""What Verihook itself sends, to measure: never an analyst's business."""

EVERY: Mapping[str, Normalizer] = {**NORMALIZERS, **BUILT_IN}
