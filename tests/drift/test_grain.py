from __future__ import annotations

import numpy as np
import pytest

from edgetuner.drift.grain import Grain, extreme_share, held_share, is_coarse
from edgetuner.drift.summary import Summary
from tests.drift import walkers


@pytest.fixture(scope="module")
def known() -> Grain:
    x, _ = walkers.source()
    return Grain.fit(x, Summary.of(x))


def test_shares_of_samples() -> None:
    x = np.array([[[0, 0, 1, 2], [3, 3, 3, 4]]], np.float32)
    np.testing.assert_allclose(held_share(x), [1 / 3])
    np.testing.assert_allclose(extreme_share(x, x.max(2)), [[0.25, 0.25]])


def test_windows_of_a_loose_cable_are_interrupted(known: Grain) -> None:
    x = walkers.recording(1, 4, seed=1)
    assert not known.interrupted(x, held_share(x)).any()
    x[..., 20:80] = x[..., 20:21]
    assert known.interrupted(x, held_share(x)).all()


def test_a_dead_channel_dithers(known: Grain) -> None:
    x = walkers.recording(2, 4, seed=1)
    x[:, 4] = 1 + 1e-3 * np.random.default_rng(0).standard_normal(x[:, 4].shape)
    dead = known.dead(x, np.sqrt(Summary.of(x).variance))
    assert dead[:, 4].all()
    assert dead.sum() == 4


def test_rest_in_coarse_steps_is_not_death() -> None:
    assert is_coarse(np.round(np.linspace(0, 0.4, 100), 1).astype(np.float32))
    assert not is_coarse(np.linspace(0, 1, 100, dtype=np.float32))


def test_a_channel_that_is_damped_where_it_is_now_is_not_dead() -> None:
    """Of a machine that never rests the stillest window is as loud as any."""
    rng = np.random.default_rng(0)
    source = rng.standard_normal((200, 3, 128)).astype(np.float32)
    known = Grain.fit(source, Summary.of(source))
    damped = rng.standard_normal((5, 3, 128)).astype(np.float32)
    damped[:, 1] *= 0.3
    assert not known.dead(damped, np.sqrt(Summary.of(damped).variance)).any()
    damped[:, 1] *= 0.03
    assert known.dead(damped, np.sqrt(Summary.of(damped).variance)).sum() == 5
    found = Grain.from_arrays(known.to_arrays())
    assert found is not None and (found.usual == known.usual).all()


def test_a_few_windows_on_a_plateau_do_not_hide_a_rail() -> None:
    """At rest the steps are coarse; that a window in full swing ends on its extreme is chance."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 2, 128)).astype(np.float32)
    x[:200, 0] = np.round(x[:200, 0] * 0.004, 2)
    x[399, 0, :8] = x[399, 0].max()
    coarse = Grain.fit(x, Summary.of(x)).coarse[0]
    assert 0.002 < coarse < 0.02
