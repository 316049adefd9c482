"""One raw record's fate, decided purely: events, ignored, or a dead letter. Nothing else.

This is where a mapping's Statement meets what only the record knows (provenance, coordinates)
and what only the deployment knows (keys, framing). No socket, broker or clock.
"""

from collections.abc import Callable, Sequence

from consumers.event import Ignored, Statement, VerificationEvent
from consumers.failures import Failure, dead_letter, failure_of
from consumers.identity import Keys, event_id, output_key, subject_ref
from consumers.normalizers import Normalizer
from consumers.records import OTHER, Decision, Output, Record
from gateway.delivery import REPLAY_OF, Provenance, dead_topic, output_topic

_MOST_PATHS = 10
"""How many bad items of one batch a dead letter names."""


_NOT_OUR_MAPPING = frozenset({"unknown_type", "invalid_json"})
"""Kinds of failure that a broken mapping does not cause: they do not count towards a stall."""


class Fate(Decision, frozen=True, kw_only=True):
    """What becomes of one raw record; exactly one of events, ignored and failure is its main fate.

    A batch with some bad items has events and a failure.
    """

    events: Sequence[VerificationEvent] = ()
    statements: Sequence[Statement] = ()
    ignored: Ignored | None = None
    failure: Failure | None = None


def event_of(
    statement: Statement, record: Record, provenance: Provenance, keys: Keys, revision: int
) -> VerificationEvent:
    """Complete a statement into the event that goes out."""
    subject = statement.subject
    reasons = statement.reasons
    occurred_at = statement.occurred_at
    return VerificationEvent(
        event_id=event_id(keys, provenance.endpoint, statement),
        provider=provenance.provider,
        endpoint=provenance.endpoint,
        environment=provenance.environment,
        authenticity=provenance.authenticity,
        provider_account=statement.provider_account,
        provider_event_id=statement.provider_event_id,
        native_type=statement.native_type,
        native_status=statement.native_status,
        category=statement.category,
        status=statement.status,
        outcome=statement.outcome,
        is_final=statement.is_final,
        retry_allowed=statement.retry_allowed,
        reason_codes=tuple([code for code, _ in reasons]),
        native_reason_codes=tuple([native for _, native in reasons]),
        subject_ref=subject_ref(keys, provenance.provider, subject) if subject else None,
        subject_ref_kind=subject.kind if subject else None,
        subject_key_id=keys.subject_key_id if subject else None,
        subject_type=statement.subject_type,
        process_ref=statement.process_ref,
        attempt_ref=statement.attempt_ref,
        resource_type=statement.resource_type,
        resource_ref=statement.resource_ref,
        occurred_at=provenance.received_at if occurred_at is None else occurred_at,
        occurred_at_source="received" if occurred_at is None else statement.occurred_at_source,
        received_at=provenance.received_at,
        methods=statement.methods,
        assurance_framework=statement.assurance_framework,
        assurance_level=statement.assurance_level,
        age_min=statement.age_min,
        age_max=statement.age_max,
        age_threshold=statement.age_threshold,
        age_method=statement.age_method,
        document_type=statement.document_type,
        document_country=statement.document_country,
        country=statement.country,
        corrected_fields=statement.corrected_fields,
        payment_amount_minor=statement.payment_amount_minor,
        payment_currency=statement.payment_currency,
        attributes=statement.attributes,
        item_index=statement.item_index,
        raw_topic=record.topic,
        raw_partition=record.partition,
        raw_offset=record.offset,
        mapping_revision=revision,
    )


class Fates:
    """Decides the fate of a provider's raw records; `decide` never raises."""

    def __init__(
        self,
        provider: str,
        normalizer: Normalizer,
        encode: Callable[[VerificationEvent], bytes],
        keys: Keys,
        topic_prefix: str = "",
    ) -> None:
        self._normalizer = normalizer
        self._encode = encode
        self._keys = keys
        self._provider = provider
        self._output_topic = output_topic(topic_prefix, provider)
        self._dead_topic = dead_topic(provider, topic_prefix)

    def decide(self, record: Record) -> Fate:
        """Give the record's fate and the outputs that carry it out."""
        try:
            return self._normalized(record)
        except Exception as error:  # noqa: BLE001 - one of two broad excepts: one record's fate
            return self._dead(record, failure_of(error))

    def _normalized(self, record: Record) -> Fate:
        provenance = self._provenance(record)
        replayed = _replayed(record)
        if record.value is None:
            raise Failure("invalid_json", error_class="Tombstone")
        normalized = self._normalizer.normalize(record.value, provenance)
        if isinstance(normalized, Ignored):
            return Fate(
                outputs=(),
                ignored=normalized,
                received_at=provenance.received_at,
                replayed=replayed,
                native_type=self._known(normalized.native_type),
            )
        events: list[VerificationEvent] = []
        statements: list[Statement] = []
        failures: list[Failure] = []
        outputs: list[Output] = []
        revision = self._normalizer.REVISION
        for item in normalized:
            if isinstance(item, Failure):
                failures.append(item)
                continue
            event = event_of(item, record, provenance, self._keys, revision)
            key = output_key(event, self._normalizer.KEYED_BY)
            outputs.append(Output(topic=self._output_topic, key=key, value=self._encode(event)))
            events.append(event)
            statements.append(item)
        failure = _merged(failures)
        if failure is not None:
            outputs.append(dead_letter(record, failure, self._dead_topic, revision))
        elif not events:
            # A delivery of no items says nothing; leaving it without a fate would lose it.
            raise Failure("schema_mismatch", error_class="NoItems")
        native_type = statements[-1].native_type if statements else failures[-1].native_type
        return Fate(
            outputs=outputs,
            event_ids=[bytes.fromhex(event.event_id.replace("-", "")) for event in events],
            events=events,
            statements=statements,
            failure=failure,
            received_at=provenance.received_at,
            replayed=replayed,
            native_type=self._known(native_type),
            failed=failure is not None and failure.kind not in _NOT_OUR_MAPPING,
        )

    def _provenance(self, record: Record) -> Provenance:
        try:
            provenance = Provenance.from_headers(record.headers)
        except (KeyError, ValueError) as error:
            # Not written by a gateway, or its headers were stripped on the way.
            name = type(error).__name__
            raise Failure("schema_mismatch", path="headers", error_class=name) from error
        if provenance.provider != self._provider:
            raise Failure("inconsistent", path="headers", error_class="OtherProvider")
        return provenance

    def _dead(self, record: Record, failure: Failure) -> Fate:
        letter = dead_letter(record, failure, self._dead_topic, self._normalizer.REVISION)
        return Fate(
            outputs=(letter,),
            failure=failure,
            replayed=_replayed(record),
            native_type=self._known(failure.native_type),
            failed=failure.kind not in _NOT_OUR_MAPPING,
        )

    def _known(self, native_type: str | None) -> str:
        return native_type if native_type in self._normalizer.NATIVE_TYPES else OTHER


def _replayed(record: Record) -> bool:
    return any(name == REPLAY_OF for name, _ in record.headers)


def _merged(failures: Sequence[Failure]) -> Failure | None:
    """Fold the bad items of one delivery into the one dead letter that keeps it."""
    if not failures:
        return None
    first = failures[0]
    paths = ",".join(failure.path for failure in failures[:_MOST_PATHS])
    return Failure(
        first.kind, path=paths, error_class=first.error_class, native_type=first.native_type
    )
