"""Keys of the tests: for each provider, what the gateway holds and what a sender signs with."""

from functools import cache

import msgspec

from gateway.providers import PROVIDERS
from gateway.send import Secret, fresh_secret, signing_key
from gateway.signatures import Key


@cache
def sample_secret(provider: str, number: int = 1) -> tuple[str, Secret]:
    """Give a secret: the text the gateway is configured with, and what a sender signs with."""
    if PROVIDERS[provider].key_pairs is None:
        text = f"a-secret-of-the-tests-number-{number}"
        return text, text
    return fresh_secret(PROVIDERS[provider])


@cache
def held(provider: str, number: int = 1) -> Key:
    """Give the key with which the gateway verifies; its id is key-<number>."""
    text, _ = sample_secret(provider, number)
    pairs = PROVIDERS[provider].key_pairs
    key = Key(id="", value=text.encode()) if pairs is None else pairs.public_keys(text)[0]
    return msgspec.structs.replace(key, id=f"key-{number}")


@cache
def sending(provider: str, number: int = 1) -> Key:
    """Give the key with which a sender signs what `held` of the same number verifies."""
    registered = PROVIDERS[provider]
    return signing_key(registered, sample_secret(provider, number)[1])
