"""Which dead letters, or which raw records, are to be replayed, as the command line says it."""

import hashlib
import json
from typing import get_args

import msgspec

from consumers.failures import ErrorKind, told
from consumers.records import Headers
from gateway.process import ConfigurationError
from gateway.ranges import Wanted


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be replayed, as the command line says it.

    `words` are the times and offsets as they were typed: the same words are the same selection,
    though 2h ago is another moment each time.
    """

    asked: Wanted
    words: tuple[str, ...] = ()
    raw: bool = False
    reasons: tuple[str, ...] = ()
    error_class: str = ""
    path: str = ""
    even_if_dead: bool = False
    everything: bool = False

    def name(self, revision: int) -> str:
        """Give the selection's fingerprint; under another mapping it is another selection."""
        said = [
            self.words, self.raw, sorted(self.reasons), self.error_class, self.path,
            self.even_if_dead, self.everything, revision,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]

    def means(self, headers: Headers) -> bool:
        """Say whether a dead letter with these headers is chosen by what it tells."""
        failure = told(headers)
        if failure is None:
            return not (self.reasons or self.error_class or self.path)
        return (
            (not self.reasons or failure.kind in self.reasons)
            and self.error_class in {"", failure.error_class}
            and (not self.path or self.path in failure.path.split(","))
        )


def checked(choice: Choice) -> Choice:
    """Give the choice; raise ConfigurationError for what cannot be meant."""
    for reason in choice.reasons:
        if reason not in get_args(ErrorKind):
            known = ", ".join(get_args(ErrorKind))
            raise ConfigurationError(
                f"--reason {reason!r}: there is no such kind; there are {known}"
            )
    if choice.raw and (choice.reasons or choice.error_class or choice.path):
        raise ConfigurationError(
            "--reason, --class and --path choose dead letters; leave --raw out"
        )
    if choice.raw and not any(choice.words):
        raise ConfigurationError("--raw needs a range: give --offset, --since or --until")
    if choice.everything and not choice.raw:
        raise ConfigurationError("--all belongs to --raw; dead letters are all replayed by default")
    return choice
