from __future__ import annotations

from edgetuner.adapt.cooldown import Cooldown
from edgetuner.config import Config


class Watch:
    """A clock that is set by hand, and the configuration, likewise."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.config = Config.model_validate({"adapt": {"cooldown_s": 10}})
        self.cooldown = Cooldown(lambda: self.config, lambda: self.now)


def test_nothing_waits_before_the_first_adaptation() -> None:
    assert Watch().cooldown.wait_s < 0


def test_it_passes_with_time() -> None:
    watch = Watch()
    watch.cooldown.begin()
    assert watch.cooldown.wait_s == 10
    watch.now += 10.5
    assert watch.cooldown.wait_s == -0.5


def test_each_failure_is_waited_for_twice_as_long_up_to_a_point() -> None:
    watch, waits = Watch(), []
    for _ in range(13):
        watch.cooldown.back_off()
        waits.append(watch.cooldown.wait_s)
    assert waits == [10 * 2**n for n in (*range(11), 10, 10)]


def test_what_was_forgiven_is_not_counted_and_what_was_waived_is() -> None:
    watch = Watch()
    watch.cooldown.back_off()
    watch.cooldown.back_off()
    watch.cooldown.waive()
    assert watch.cooldown.wait_s < 0
    watch.cooldown.back_off()
    assert watch.cooldown.wait_s == 40
    watch.cooldown.forgive()
    assert watch.cooldown.wait_s == 40, "a wait that has begun stays"
    watch.cooldown.back_off()
    assert watch.cooldown.wait_s == 10


def test_an_ordinary_wait_is_no_failure() -> None:
    watch = Watch()
    watch.cooldown.begin()
    watch.cooldown.back_off()
    assert watch.cooldown.wait_s == 10


def test_the_configuration_in_force_counts() -> None:
    watch = Watch()
    watch.config = Config.model_validate({"adapt": {"cooldown_s": 3}})
    watch.cooldown.begin()
    assert watch.cooldown.wait_s == 3
