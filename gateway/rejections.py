"""Every way to say no: the reason's metric label, its HTTP status, its result.

A Rejection never carries payload, header values or secrets: its text may be logged.
"""

from typing import Literal

import msgspec

Result = Literal["stored", "ignored", "rejected", "unavailable", "error"]
"""How a request ended, as counted: every request ends in exactly one of these."""


class Reason(msgspec.Struct, frozen=True):
    """Why a request was not stored.

    `provider_decides` marks refusals whose status a provider may replace (Treezor wants the 500
    range for everything after routing, so that it sends again).
    """

    label: str
    status: int
    result: Result = "rejected"
    provider_decides: bool = True


UNKNOWN_ENDPOINT = Reason("unknown_endpoint", 404, provider_decides=False)
WRONG_PATH_TOKEN = Reason("wrong_path_token", 404, provider_decides=False)
METHOD_NOT_ALLOWED = Reason("method_not_allowed", 405, provider_decides=False)
BODY_TOO_LARGE = Reason("body_too_large", 413, provider_decides=False)
BODY_TIMEOUT = Reason("body_timeout", 408)
CLIENT_GONE = Reason("client_gone", 408)
CONTENT_ENCODING = Reason("content_encoding", 415)
HEADERS_TOO_LARGE = Reason("headers_too_large", 431)
SIGNATURE_MISSING = Reason("signature_missing", 401)
SIGNATURE_MALFORMED = Reason("signature_malformed", 401)
SIGNATURE_MISMATCH = Reason("signature_mismatch", 401)
UNKNOWN_CLIENT = Reason("unknown_client", 401)
TIMESTAMP_OUTSIDE_TOLERANCE = Reason("timestamp_outside_tolerance", 401)
BODY_MALFORMED = Reason("body_malformed", 400)
OVERLOADED = Reason("overloaded", 503, "unavailable", provider_decides=False)
SHUTTING_DOWN = Reason("shutting_down", 503, "unavailable", provider_decides=False)
NOT_READY = Reason("not_ready", 503, "unavailable", provider_decides=False)
KAFKA_TIMEOUT = Reason("kafka_timeout", 503, "unavailable", provider_decides=False)
KAFKA_QUEUE_FULL = Reason("kafka_queue_full", 503, "unavailable", provider_decides=False)
KAFKA_REFUSED = Reason("kafka_refused", 503, "unavailable", provider_decides=False)
UNFORESEEN = Reason("unforeseen", 500, "error", provider_decides=False)

REASONS: tuple[Reason, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Reason)
)
"""The closed set, in the order above."""


class Rejection(Exception):  # noqa: N818 - an answer, not an error of the program
    """A request that is refused; `detail` is one sentence for the log, without payload."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.label}: {detail}" if detail else reason.label)
        self.reason = reason
        self.detail = detail
