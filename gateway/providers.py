"""Who may knock: each provider's scheme, ordering key, kept headers and the answers it wants."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.signatures import BodyHmac, Scheme, Secret

KIB = 1024
LONGEST_KEY_BYTES = 256


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway must know of one provider.

    `scheme` builds the verifier from the secrets and the endpoint's options, whose names are
    `options`. `ordering_key` reads the id of the verification process from the signed bytes.
    `kept_headers` are what a later verification needs; Authorization and Cookie are never kept.
    `refusal_status` replaces the status of refusals where the provider wants another.
    `needs_path_token`: the scheme does not prove for whom a delivery is.
    """

    name: str
    title: str
    scheme: Callable[[Sequence[Secret], Mapping[str, Any]], Scheme]
    ordering_key: Callable[[bytes], str | None]
    kept_headers: tuple[str, ...]
    options: tuple[str, ...] = ()
    body_limit: int = 900 * KIB
    refusal_status: int | None = None
    needs_path_token: bool = False
    names_client: bool = False

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

    The Struct it decodes into holds only these paths, so that the rest is skipped, not built.
    The reader gives None for anything that cannot be read: a body it cannot order is stored
    all the same, and the consumer says what is wrong with it.
    """
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        for name in path.split("."):
            node = node.setdefault(name, {})
    decoder = msgspec.json.Decoder(_struct_of("Ordering", tree))
    split = [path.split(".") for path in paths]

    def read(body: bytes) -> str | None:
        try:
            found = decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        for names in split:
            value: Any = found
            for name in names:
                value = getattr(value, name, None)
            if value is not None and value != "":
                return str(value)
        return None

    return read


def _struct_of(name: str, tree: Mapping[str, Any]) -> Any:
    fields = [
        (field, (_struct_of(field, inner) if inner else str | int) | None, None)
        for field, inner in tree.items()
    ]
    return msgspec.defstruct(name.title(), fields)


def _veriff(secrets: Sequence[Secret], options: Mapping[str, Any]) -> Scheme:  # noqa: ARG001
    return BodyHmac(
        secrets,
        name="veriff-hmac-sha256",
        header="x-hmac-signature",
        client_header="x-auth-client",
    )


def _pawapass(secrets: Sequence[Secret], options: Mapping[str, Any]) -> Scheme:  # noqa: ARG001
    return BodyHmac(
        secrets,
        name="pawapass-hmac-sha256",
        header="x-signature",
        encodings=("hex", "base64"),
    )


PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            name="pawapass",
            title="pawaPass",
            scheme=_pawapass,
            ordering_key=first_of("data.id"),
            kept_headers=("x-signature",),
        ),
        Provider(
            name="veriff",
            title="Veriff",
            scheme=_veriff,
            names_client=True,
            # decision; user status, watchlist, INE; event, CURP; old watchlist; full auto
            ordering_key=first_of(
                "verification.id", "sessionId", "id", "attemptId", "data.verification.id"
            ),
            kept_headers=("x-hmac-signature", "x-auth-client", "vrf-integration-id"),
        ),
    )
}
