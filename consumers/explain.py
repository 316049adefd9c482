"""How a body maps, without Kafka: the events it becomes, or why it becomes none."""

import msgspec

from consumers.codec import encoder, single_object_prefix
from consumers.event import VerificationEvent
from consumers.fate import Fate, Fates
from consumers.identity import Keys
from consumers.normalizers import EVERY, NORMALIZERS
from consumers.records import Record
from gateway.delivery import Provenance, raw_topic
from gateway.process import ConfigurationError


def fate_of(
    provider: str,
    body: bytes,
    keys: Keys,
    *,
    endpoint: str,
    received_at: int,
    scheme: str = "",
    authenticity: str = "",
) -> Fate:
    """Decide the fate of a body as if it had been the first raw record of its topic.

    `received_at` is in milliseconds since the epoch. Nothing here verifies the body: it counts as
    what `authenticity` says, else as what its scheme would prove. Without a scheme, the
    provider's are tried and the first that fits is taken. Raises ConfigurationError for a
    provider there is no normalizer for, and for a scheme that the provider does not have.
    """
    if provider not in EVERY:
        known = ", ".join(sorted(NORMALIZERS))
        raise ConfigurationError(f"there is no normalizer for {provider}; there are {known}")
    normalizer = EVERY[provider]
    if scheme and scheme not in normalizer.SCHEMES:
        known = ", ".join(normalizer.SCHEMES) or "none that matters here"
        raise ConfigurationError(f"{provider} has no scheme {scheme}; there are {known}")
    fates = Fates(provider, normalizer, encoder(single_object_prefix()), keys)
    found = [
        fates.decide(
            _record(
                provider,
                body,
                endpoint,
                received_at,
                form,
                authenticity or ("token" if form.endswith("-bearer") else "signed"),
            )
        )
        for form in ([scheme] if scheme else normalizer.SCHEMES or [""])
    ]
    return min(found, key=_misfit)


def _misfit(fate: Fate) -> int:
    """Rank fates under different schemes: a body that is not of a scheme's form comes last."""
    if fate.failure is None:
        return 0
    return 2 if fate.failure.error_class == "OtherForm" else 1


def _record(
    provider: str, body: bytes, endpoint: str, received_at: int, scheme: str, authenticity: str
) -> Record:
    provenance = Provenance(
        endpoint=endpoint,
        provider=provider,
        received_at=received_at,
        delivery_id="0" * 32,
        authenticity=authenticity,
        scheme=scheme,
        key_id="default",
        environment="sandbox",
    )
    return Record(
        topic=raw_topic(provider),
        partition=0,
        offset=0,
        timestamp=received_at,
        key=None,
        value=body,
        headers=[*provenance.to_headers()],
    )


def explained(event: VerificationEvent) -> list[tuple[str, str]]:
    """Give what an event says, field by field; fields that say nothing are left out."""
    defaults = {
        field.name: field.default
        for field in msgspec.structs.fields(VerificationEvent)
        if field.default is not msgspec.NODEFAULT
    }
    said = msgspec.structs.asdict(event)
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        for name, value in said.items()
        if value not in ((), {}, None) and defaults.get(name, msgspec.UNSET) != value
    ]
