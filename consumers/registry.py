"""Schema id look-up: one question at the start, never one per record.

The schema is looked up by its content, so that an older version can be rolled back to, and it
is never registered from here: registering is a deployment step.
"""

import base64
import json
import urllib.error
import urllib.parse
import urllib.request

import msgspec

from gateway.process import ConfigurationError

_TIMEOUT_SECONDS = 10.0


class _Registered(msgspec.Struct):
    id: int


def schema_id(url: str, topic: str, schema: str, credentials: str | None = None) -> int:
    """Ask a Confluent-compatible registry for the id of this schema under `<topic>-value`.

    `credentials` is user:password. Raises ConfigurationError with what to do.
    """
    subject = f"{topic}-value"
    target = f"{url.rstrip('/')}/subjects/{urllib.parse.quote(subject, safe='')}"
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    if credentials is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    if not target.startswith(("http://", "https://")):
        raise ConfigurationError(f"SCHEMA_REGISTRY_URL is {url!r}; it should begin with http(s)://")
    body = json.dumps({"schema": schema}).encode()
    request = urllib.request.Request(target, data=body, headers=headers, method="POST")  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            return msgspec.json.decode(answer.read(), type=_Registered).id
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise ConfigurationError(
                f"the registry does not hold today's schema under {subject}; register "
                "avro/VerificationEvent.avsc there first"
            ) from error
        raise ConfigurationError(f"the registry at {url} answered {error.code}") from error
    except (urllib.error.URLError, TimeoutError, msgspec.MsgspecError) as error:
        raise ConfigurationError(
            f"the registry at {url} does not answer as one ({type(error).__name__}); check "
            "SCHEMA_REGISTRY_URL"
        ) from error
