"""Who may knock: each provider's scheme, ordering key, kept headers and the answers it wants."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from gateway.delivery import CANARY
from gateway.signatures import Key, Scheme, ecdsa
from gateway.signatures.bearer import BearerToken
from gateway.signatures.ecdsa import Ecdsa
from gateway.signatures.hmac_sha256 import BodyHmac
from gateway.signatures.timestamped import TimestampedHmac
from gateway.signatures.treezor import TreezorPayload

KIB = 1024
LONGEST_KEY_BYTES = 256

Options = Mapping[str, str]
"""An endpoint's choices, by the names in `Provider.options`."""


class KeyPairs(Protocol):
    """How a provider's public keys are read, where it shares no secret."""

    def public_keys(self, text: str) -> list[Key]:
        """Read one or more PEM blocks; raises ValueError with a sentence, never the text."""
        ...

    def private_key(self, text: str) -> Key:
        """Read a sender's private key from PEM; raises ValueError with a sentence."""
        ...

    def generate(self) -> tuple[str, str]:
        """Make a new private and public key, both as PEM."""
        ...


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway must know of one provider.

    `scheme_of` builds the verifier from the keys and the endpoint's choices; it raises ValueError
    with a sentence for what does not fit. `options` are the choices there are: each name with its
    values, the default first. `ordering_key` reads the id of the verification process from the
    signed bytes. `kept_headers` are what a later verification needs; Authorization and Cookie
    are never kept. `refusal_status` replaces the status of refusals where the provider wants
    another. `key_pairs` reads public keys; None where the provider shares secrets.
    """

    name: str
    title: str
    scheme_of: Callable[[Sequence[Key], Options], Scheme]
    ordering_key: Callable[[bytes], str | None]
    kept_headers: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]] = {}
    key_pairs: KeyPairs | None = None
    body_limit: int = 900 * KIB
    refusal_status: int | None = None
    names_client: bool = False

    def scheme(self, keys: Sequence[Key], options: Options = {}) -> Scheme:  # noqa: B006 - only read
        """Build the verifier; an option that is not given takes its default."""
        defaults = {name: values[0] for name, values in self.options.items()}
        return self.scheme_of(keys, {**defaults, **options})

    def record_key(self, signed: bytes) -> bytes:
        """Give the raw record's key: deliveries about one process share it, and so a partition.

        A digest of the signed bytes where no id is found, a digest of the id where it is longer
        than 256 bytes.
        """
        found = self.ordering_key(signed)
        if not found:
            return hashlib.sha256(signed).hexdigest().encode()
        key = found.encode()
        return key if len(key) <= LONGEST_KEY_BYTES else hashlib.sha256(key).hexdigest().encode()


def first_of(*paths: str) -> Callable[[bytes], str | None]:
    """Build a reader that gives the first present value among dotted paths into a JSON body.

    `0` in a path is the first item of an array; the others are not looked at. The Structs a body
    is decoded into hold only the path, so that the rest is skipped, not built. The reader gives
    None for anything that cannot be read: a body it cannot order is stored all the same, and
    the consumer says what is wrong with it.
    """
    readers = [_reader(path.split(".")) for path in paths]

    def read(body: bytes) -> str | None:
        for reader in readers:
            try:
                value = reader(body)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                continue
            if value is not None and value != "":
                return str(value)
        return None

    return read


def _reader(path: Sequence[str]) -> Callable[[bytes | msgspec.Raw], str | int | None]:
    """Build a reader of one path; it raises msgspec's errors for what cannot be read."""
    if "0" not in path:
        return _narrow(path, str | int)
    place = path.index("0")
    array, item = _narrow(path[:place], list[msgspec.Raw]), _reader(path[place + 1 :])

    def read(body: bytes | msgspec.Raw) -> str | int | None:
        items = array(body)
        return item(items[0]) if items else None

    return read


def _narrow(path: Sequence[str], leaf: Any) -> Callable[[bytes | msgspec.Raw], Any]:
    """Decode nothing but one path of objects, and give what stands at its end, or None."""
    kind = leaf
    for name in reversed(path):
        kind = msgspec.defstruct(name.title(), [(name, kind | None, None)])
    decoder = msgspec.json.Decoder(kind)

    def read(body: bytes | msgspec.Raw) -> Any:
        found = decoder.decode(body)
        for name in path:
            if found is None:
                return None
            found = getattr(found, name)
        return found

    return read


def _body_hmac(**how: Any) -> Callable[[Sequence[Key], Options], Scheme]:
    return lambda keys, _options: BodyHmac(keys, **how)


def _plexy(keys: Sequence[Key], options: Options) -> Scheme:
    """Plexy publishes two contracts; which one an account gets is not documented."""
    if options["contract"] == "B":
        if (options["text"], options["stale"]) != ("auto", "accept"):
            raise ValueError("text and stale belong to contract A; contract B signs nothing")
        return BearerToken(keys, name="plexy-bearer")
    return TimestampedHmac(
        keys,
        name="plexy-hmac",
        header="plexy-signature",
        text=options["text"],
        refuses_stale=options["stale"] == "refuse",
    )


PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            name="onfido",
            title="Onfido",
            # github.com/onfido/onfido-python, onfido/webhook_event_verifier.py
            scheme_of=_body_hmac(name="onfido-hmac-sha256", header="x-sha2-signature"),
            # of a run's task; of what tells its run beside the object; the run, check or report
            ordering_key=first_of(
                "payload.object.workflow_run_id",
                "payload.resource.workflow_run_id",
                "payload.object.id",
            ),
            kept_headers=("x-sha2-signature",),
        ),
        Provider(
            name="pawapass",
            title="pawaPass",
            scheme_of=_body_hmac(
                name="pawapass-hmac-sha256", header="x-signature", encodings=("hex", "base64")
            ),
            ordering_key=first_of("data.id"),
            kept_headers=("x-signature",),
        ),
        Provider(
            name="pleenk",
            title="Pleenk",
            scheme_of=lambda keys, options: Ecdsa(
                keys,
                name="pleenk-ecdsa-p521-sha512",
                header="pleenk-signature",
                signature_format=options["signature_format"],
            ),
            options={"signature_format": ("der", "p1363")},
            key_pairs=ecdsa,
            # of a batch, its first item
            ordering_key=first_of(
                "events.0.data.userRef", "events.0.data.paymentId", "events.0.data.ref"
            ),
            kept_headers=("pleenk-signature",),
        ),
        Provider(
            name="plexy",
            title="Plexy",
            scheme_of=_plexy,
            options={
                "contract": ("A", "B"),
                "text": ("auto", "timestamped", "body"),
                "stale": ("accept", "refuse"),
            },
            ordering_key=first_of("data.id"),
            kept_headers=("plexy-signature",),
        ),
        Provider(
            name="treezor",
            title="Treezor",
            scheme_of=lambda keys, options: TreezorPayload(
                keys, accepts_unsigned=options["unsigned"] == "accept"
            ),
            options={"unsigned": ("refuse", "accept")},
            # in object_payload, the only thing that is signed
            ordering_key=first_of("users.0.userId", "documents.0.userId", "userId", "user_id"),
            kept_headers=(),
            body_limit=256 * KIB,
            refusal_status=500,
        ),
        Provider(
            name="veriff",
            title="Veriff",
            scheme_of=_body_hmac(
                name="veriff-hmac-sha256",
                header="x-hmac-signature",
                client_header="x-auth-client",
            ),
            names_client=True,
            # decision; user status, watchlist, INE; event, CURP; old watchlist; full auto
            ordering_key=first_of(
                "verification.id", "sessionId", "id", "attemptId", "data.verification.id"
            ),
            kept_headers=("x-hmac-signature", "x-auth-client", "vrf-integration-id"),
        ),
    )
}

BUILT_IN: Mapping[str, Provider] = {
    CANARY: Provider(
        name=CANARY,
        title="Canary",
        # gateway/canary.py sends it; the time of sending stands in the signed body
        scheme_of=_body_hmac(name="canary-hmac-sha256", header="x-verihook-canary"),
        ordering_key=first_of("beat_id"),
        kept_headers=("x-verihook-canary",),
        body_limit=4 * KIB,
    )
}
"""What Verihook itself sends, to measure: never an analyst's business."""

EVERY: Mapping[str, Provider] = {**PROVIDERS, **BUILT_IN}
