"""A consumer's environment: how it delivers, what it remembers and for how long."""

from pathlib import Path

import pytest

from consumers.settings import load_settings
from gateway.process import ConfigurationError
from tests.conftest import EVENT_KEY, SUBJECT_KEY

LEAST = {
    "KAFKA_BOOTSTRAP_SERVERS": "localhost:1",
    "EVENT_KEY": EVENT_KEY,
    "SUBJECT_KEY": SUBJECT_KEY,
}


def loaded(**environ):
    options = {name: environ.pop(name) for name in ("delivery", "slot") if name in environ}
    return load_settings(LEAST | environ, **options)


def test_by_default_it_delivers_at_least_once_and_remembers_what_the_provider_needs():
    """No slot, the provider's own window, nothing kept on disk, five minutes for a rebuild."""
    settings = loaded()
    assert settings.slot is None
    assert settings.dedup_days is None
    assert settings.state_folder is None
    assert settings.rebuild_seconds == 300
    assert settings.stall


@pytest.mark.parametrize(
    "environ",
    [
        {"CONSUMER_DELIVERY": "exactly-once", "CONSUMER_SLOT": "3"},
        {"delivery": "exactly-once", "slot": 3},
        {"delivery": "exactly-once", "CONSUMER_SLOT": "3"},
        {"CONSUMER_DELIVERY": "at-least-once", "delivery": "exactly-once", "slot": 3},
        {"CONSUMER_DELIVERY": "exactly-once", "CONSUMER_SLOT": "7", "slot": 3},
    ],
)
def test_the_slot_comes_with_exactly_once_and_options_win(environ):
    """By variable or by option."""
    assert loaded(**environ).slot == 3


def test_slot_0_is_a_slot():
    """The first of a StatefulSet is numbered 0."""
    assert loaded(delivery="exactly-once", slot=0).slot == 0


def test_a_slot_means_nothing_at_least_once():
    """It may stand in an environment that several processes share."""
    assert loaded(CONSUMER_SLOT="3").slot is None


def test_state_and_windows_are_read():
    """Days, seconds and a folder."""
    settings = loaded(
        CONSUMER_DEDUP_DAYS="30", CONSUMER_STATE_DIR="/var/lib/it", CONSUMER_REBUILD_SECONDS="60"
    )
    assert settings.dedup_days == 30
    assert settings.state_folder == Path("/var/lib/it")
    assert settings.rebuild_seconds == 60
    assert loaded(CONSUMER_DEDUP_DAYS="0").dedup_days == 0


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"CONSUMER_DELIVERY": "once"}, "'once'; it should be at-least-once or exactly-once"),
        ({"delivery": "exactly-once"}, "needs a slot"),
        ({"delivery": "exactly-once", "CONSUMER_SLOT": "a"}, "CONSUMER_SLOT is 'a'"),
        ({"delivery": "exactly-once", "CONSUMER_SLOT": "10000"}, "from 0 to 9999"),
        ({"CONSUMER_DEDUP_DAYS": "-1"}, "CONSUMER_DEDUP_DAYS is '-1'; it should be a whole number"),
        ({"CONSUMER_DEDUP_DAYS": "1.5"}, "CONSUMER_DEDUP_DAYS is '1.5'"),
        ({"CONSUMER_DEDUP_DAYS": "401"}, "from 0 to 400"),
        ({"CONSUMER_DEDUP_DAYS": "٣"}, "CONSUMER_DEDUP_DAYS"),
        ({"CONSUMER_REBUILD_SECONDS": "0"}, "from 1 to 86400"),
        ({"CONSUMER_STATE_DIR": "state"}, "should be an absolute path"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(environ, sentence):
    """It names the variable, what it held and what it should hold."""
    with pytest.raises(ConfigurationError) as refused:
        loaded(**environ)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
