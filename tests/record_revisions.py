"""Records which events each fixture gives under which mapping revision: tests/fixtures/revisions.json.

Readers keep, per event_id, the event of the highest revision; so the same payload may give
another event only under a higher one. `python -m tests.record_revisions` writes the events of a
fixture that has none yet (for a person to check, field by field), takes new and changed fixtures
over, and refuses a changed event of an unchanged payload whose revision was not raised.
"""

import hashlib
import json
import sys

import msgspec

from consumers.normalizers import NORMALIZERS
from gateway.send import FIXTURES, Fixture, fixtures

RECORD = FIXTURES / "revisions.json"


def entry(fixture: Fixture) -> dict[str, object]:
    """Give what is recorded of one fixture."""
    payload = hashlib.sha256(fixture.body).hexdigest()
    events = hashlib.sha256((fixture.folder / "events.json").read_bytes()).hexdigest()
    revision = NORMALIZERS[fixture.provider].REVISION
    return {"revision": revision, "payload": payload, "events": events}


def current() -> dict[str, dict[str, object]]:
    """Give the record as it should be now."""
    return {f"{found.provider}/{found.case}": entry(found) for found in fixtures()}


def not_raised(
    recorded: dict[str, dict[str, object]], now: dict[str, dict[str, object]]
) -> list[str]:
    """List the fixtures whose event changed although neither payload nor revision did."""
    return [
        name
        for name, was in recorded.items()
        if name in now
        and was["payload"] == now[name]["payload"]
        and was["events"] != now[name]["events"]
        and now[name]["revision"] <= was["revision"]
    ]


def write_missing_events() -> None:
    """Write events.json, under the keys and coordinates of the tests, where there is none."""
    from tests.conftest import KEYS
    from tests.test_fixtures import fate_of, raw_record  # it reads this module's record

    for found in fixtures():
        file = found.folder / "events.json"
        if not file.exists():
            fate = fate_of(raw_record(found), KEYS)
            if fate.failure is not None:
                sys.exit(f"{found.provider}/{found.case} would be a dead letter: {fate.failure}")
            file.write_bytes(msgspec.json.format(msgspec.json.encode(list(fate.events))) + b"\n")
            print(f"written, now check every field: tests/fixtures/{found.provider}/{found.case}")


def main() -> int:
    """Write the record, or say which revision must be raised first."""
    write_missing_events()
    now = current()
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if refused := not_raised(recorded, now):
        print(f"raise REVISION first: other events of the same payload in {', '.join(refused)}")
        return 1
    RECORD.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
