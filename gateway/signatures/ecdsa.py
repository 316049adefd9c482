"""ECDSA on P-521 with SHA-512 over the raw body: public keys, verifying, and signing."""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from gateway.headers import Headers
from gateway.rejections import (
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    Rejection,
)
from gateway.signatures import Key, Scheme, Signed, Verified

_DIGEST = ec.ECDSA(Prehashed(hashes.SHA512()))
_NUMBER_BYTES = 66
# The number of points of P-521: r and s lie below it (SEC 2, 2.9.1).
_ORDER = (1 << 521) - int("5ae79787c40d069948033feb708f65a2fc44a36477663b851449048e16ec79bf7", 16)
# DER of two numbers is at most 139 bytes, r||s is 132: longer text is not worth decoding.
_LONGEST_TEXT = 4 * 47
_BASE64 = re.compile(r"([A-Za-z0-9+/]+|[A-Za-z0-9_-]+)(={0,2})", re.ASCII)
_PEM_MARKER = re.compile(r"-----(BEGIN|END) ([A-Z0-9 ]+)-----", re.ASCII)


class Ecdsa(Scheme):
    """ECDSA on P-521 with SHA-512 over the raw body, in a header; any current key may match.

    Pleenk documents the header and the key, not the container nor the alphabet
    (developers.pleenk.com/docs/signature-verification). The container is exactly the configured
    one: "der", or "p1363" for r||s. Base64 is read in either alphabet, padded or not, but one
    value has one spelling: alphabets are not mixed, padding is whole, spare bits are zero. ECDSA
    itself has two signatures for each (s and n-s both verify), so none may serve as an id.
    """

    path_token_because = "its signature does not say for whom a delivery is"  # noqa: S105 - a reason

    def __init__(
        self, keys: Sequence[Key], *, name: str, header: str, signature_format: str
    ) -> None:
        self.names = (name,)
        self.key_ids = tuple(key.id for key in keys)
        self._header = header
        self._is_der = signature_format == "der"
        self._private = _private(keys[0].value)
        self._public = [(key.id, _public_of_either(key.value)) for key in keys]

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:  # noqa: ARG002 - no time is signed
        """Accept the body if one of the public keys' owners signed exactly these bytes."""
        text = headers.proof(self._header)
        if not text:
            raise Rejection(SIGNATURE_MISSING, f"there is no {self._header} header")
        signature = self._as_der(self._decoded(text))
        digest = hashlib.sha512(body).digest()
        for key_id, public in self._public:
            try:
                public.verify(signature, digest, _DIGEST)
            except InvalidSignature:
                continue
            return Verified(scheme=self.names[0], key_id=key_id, signed=body)
        raise Rejection(SIGNATURE_MISMATCH, "no current public key verifies this signature")

    def sign(self, body: bytes, now: float) -> Signed:  # noqa: ARG002 - no time is signed
        """Sign with the first key, URL-safe and unpadded as Pleenk's widget links are.

        Raises ValueError if it is a public key.
        """
        if self._private is None:
            raise ValueError("a public key signs nothing; give the sender's private key")
        signature = self._private.sign(hashlib.sha512(body).digest(), _DIGEST)
        if not self._is_der:
            r, s = decode_dss_signature(signature)
            signature = r.to_bytes(_NUMBER_BYTES, "big") + s.to_bytes(_NUMBER_BYTES, "big")
        text = base64.urlsafe_b64encode(signature).decode().rstrip("=")
        return Signed(headers={self._header: text}, body=body)

    def is_heavy(self, body: bytes) -> bool:  # noqa: ARG002 - heavy for every body
        """Tell that every verification costs half a millisecond, spent without the GIL."""
        return True

    def _decoded(self, text: str) -> bytes:
        found = _BASE64.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
        if found is not None:
            characters, padding = found.groups()
            missing = "=" * (-len(characters) % 4)
            whole = characters.replace("-", "+").replace("_", "/") + missing
            if len(missing) < 3 and padding in {"", missing}:
                signature = base64.b64decode(whole)
                if base64.b64encode(signature).decode() == whole:
                    return signature
        raise Rejection(SIGNATURE_MALFORMED, f"{self._header} is not base64 of a signature")

    def _as_der(self, signature: bytes) -> bytes:
        """Give the signature in DER once its container and its two numbers are proven sound."""
        if self._is_der:
            try:
                # Strict: no byte too many, shortest lengths and numbers, nothing negative.
                r, s = decode_dss_signature(signature)
            except ValueError:
                raise Rejection(
                    SIGNATURE_MALFORMED, f"{self._header} is not a signature in DER"
                ) from None
        elif len(signature) == 2 * _NUMBER_BYTES:
            r = int.from_bytes(signature[:_NUMBER_BYTES], "big")
            s = int.from_bytes(signature[_NUMBER_BYTES:], "big")
        else:
            raise Rejection(SIGNATURE_MALFORMED, f"{self._header} is not r||s of 132 bytes")
        if not (0 < r < _ORDER and 0 < s < _ORDER):
            raise Rejection(
                SIGNATURE_MALFORMED, f"{self._header} holds a number outside 1 to the curve's order"
            )
        return encode_dss_signature(r, s)


def public_keys(text: str) -> list[Key]:
    """Read P-521 public keys from one or more PEM blocks, however indented and wrapped.

    A key's id is spki- and the first 12 hex digits of the SHA-256 of its DER: it stays when the
    blocks change places, and says no secret. Beside the blocks only blank lines and lines that
    begin with # may stand. Raises ValueError with one sentence that never quotes the text.
    """
    keys: list[Key] = []
    for label, der in _pem_blocks(text):
        if label.endswith("PRIVATE KEY"):
            raise ValueError(
                "there is a private key; leave it with its sender and give the public key"
            )
        if label.endswith("CERTIFICATE"):
            raise ValueError(
                "there is a certificate; give the public key alone "
                "(openssl x509 -noout -pubkey prints it)"
            )
        if label != "PUBLIC KEY":
            raise ValueError("give only blocks that begin with -----BEGIN PUBLIC KEY-----")
        # Written anew, so that one key has one text and one id whatever form of it was given.
        value = _public(der).public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        key = Key(id=f"spki-{hashlib.sha256(value).hexdigest()[:12]}", value=value)
        if any(key.id == other.id for other in keys):
            raise ValueError(f"the key {key.id} stands there twice; give each key once")
        keys.append(key)
    if not keys:
        raise ValueError(
            "there is no public key; give PEM that begins with -----BEGIN PUBLIC KEY-----"
        )
    return keys


def private_key(text: str) -> Key:
    """Read a sender's P-521 key from one unencrypted PKCS 8 block in PEM.

    Raises ValueError with one sentence that never quotes the text.
    """
    blocks = list(_pem_blocks(text))
    if [label for label, _ in blocks] != ["PRIVATE KEY"]:
        raise ValueError(
            "give exactly one block that begins with -----BEGIN PRIVATE KEY----- (PKCS 8, "
            "not encrypted)"
        )
    private = _private(blocks[0][1])
    if private is None:
        raise ValueError("the private key is not on P-521 (secp521r1); give one that is")
    return Key(id="send", value=_pkcs8(private, serialization.Encoding.DER))


def generate() -> tuple[str, str]:
    """Make a new P-521 key pair: the private key and the public key, both as PEM."""
    private = ec.generate_private_key(ec.SECP521R1())
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _pkcs8(private, serialization.Encoding.PEM).decode(), public.decode()


def _pem_blocks(text: str) -> Iterator[tuple[str, bytes]]:
    """Give each block's label and bytes.

    Pleenk publishes its key indented and wrapped at 62 columns, which OpenSSL's command line
    refuses and some libraries take; here blanks and wrapping never matter.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    outside, *parts = _PEM_MARKER.split("\n".join(lines))
    open_label: str | None = None
    between = [outside]
    for kind, label, after in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if kind == "END" and open_label == label:
            try:
                der = base64.b64decode("".join(between[-1].split()), validate=True)
            except ValueError:
                raise ValueError("a block holds other than base64; copy it again") from None
            yield label, der
            open_label = None
        elif kind == "BEGIN" and open_label is None:
            _nothing_beside(between[-1])
            open_label = label
        else:
            raise ValueError(
                "a block's BEGIN and END do not belong together; copy each block as a whole"
            )
        between.append(after)
    if open_label is not None:
        raise ValueError("the last block does not end; copy it as far as its END line")
    _nothing_beside(between[-1])


def _nothing_beside(text: str) -> None:
    """Refuse text beside the blocks: a key whose BEGIN line is damaged would silently be lost."""
    if text.strip():
        raise ValueError(
            "something other than PEM blocks stands there; remove it, or begin its lines with #"
        )


def _public(der: bytes) -> ec.EllipticCurvePublicKey:
    try:
        public = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp521r1":
        raise ValueError("a public key is not on P-521 (secp521r1); give one that is")
    return public


def _private(der: bytes) -> ec.EllipticCurvePrivateKey | None:
    try:
        private = serialization.load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp521r1":
        return None
    return private


def _public_of_either(der: bytes) -> ec.EllipticCurvePublicKey:
    private = _private(der)
    return _public(der) if private is None else private.public_key()


def _pkcs8(private: ec.EllipticCurvePrivateKey, encoding: serialization.Encoding) -> bytes:
    return private.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
