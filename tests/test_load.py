"""The load: every delivery of it is genuine, and an event of its own."""

import pytest

from consumers.explain import fate_of
from deploy.load import anew, fixture_of
from gateway.providers import PROVIDERS
from tests.conftest import KEYS


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_no_two_deliveries_of_a_load_say_the_same(provider):
    """Each has event ids of its own, and maps as its fixture does."""
    found = fixture_of(provider)
    assert not found.options
    fates = [
        fate_of(
            provider, anew(provider, found.body, number), KEYS, endpoint=provider,
            received_at=0, scheme="", authenticity="",
        )
        for number in (1_795_301_171, 1_795_301_172)
    ]  # fmt: skip
    first, second = ({event.event_id for event in fate.events} for fate in fates)
    assert first
    assert not first & second
    outcomes = [[event.outcome for event in fate.events] for fate in fates]
    assert outcomes[0] == outcomes[1]
