"""Every policy on a real stream: what it sees, when it trains, and what its training costs."""

import asyncio
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import policies  # noqa: E402
from benchmarks.policies import AT_ONCE, POLICIES, Model, fine_tuned  # noqa: E402
from benchmarks.prequential import outcome, play  # noqa: E402
from benchmarks.scenarios import SCENARIOS, Cast  # noqa: E402

RATE = 3e-3


@pytest.fixture
def stream(wave_home):
    return SCENARIOS["sudden"](Cast(wave_home, 60, 400, seed=0))


@pytest.fixture
def run(wave_version, tmp_path):
    numbers = itertools.count()

    def played(stream, policy):
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        predicted, log = asyncio.run(play(stream, policy, wave_version, folder, RATE))
        return predicted, log, outcome(stream, predicted, log)

    return played


def test_never_is_the_source_model_and_trains_nothing(run, stream, wave_version):
    predicted, log, row = run(stream, "never")
    assert np.array_equal(predicted, wave_version.predict(stream.windows.x).predicted)
    assert row["alarms"] >= 1 and not log.swaps and not log.trained_on


def test_full_fine_tuning_on_drift_learns_the_new_place_from_its_labels_alone(run, stream):
    _, log, row = run(stream, "full")
    assert row["swaps"] >= 1 and row["harms"][0][1] < 0
    onset = min(finding.onset_seq for finding in log.findings if finding.kind == "drift")
    assert min(log.trained_on) >= onset
    assert all(stream.label[n] >= 0 for n in log.trained_on)
    assert len(log.train_seconds) == row["trainings"] and row["train_seconds"] > 0
    assert row["adapt_seconds"] >= row["train_seconds"]


def test_periodic_training_asks_for_no_drift(run, stream, monkeypatch):
    monkeypatch.setattr(policies, "PERIOD", 200)
    _, log, row = run(stream, "periodic")
    assert row["trainings"] == len(stream) // 200
    starts = [at for at, name in log.events if name == "swap"]
    assert all(200 * n < at for n, at in enumerate(starts, start=1))


def test_statistics_need_no_label(run, wave_home):
    stream = SCENARIOS["no labels"](Cast(wave_home, 60, 400, seed=0))
    _, log, row = run(stream, "statistics")
    assert row["swaps"] >= 1 and log.trained_on
    assert run(stream, "full")[2]["trainings"] == 0


def test_a_training_that_takes_long_is_paid_for_in_windows(run, stream, monkeypatch):
    quick = run(stream, "full")[1].swaps[0][0]
    clock = itertools.count(0, 100)  # seconds, at every look
    monkeypatch.setattr(policies.time, "perf_counter", lambda: next(clock))
    _, log, _ = run(stream, "full")
    late = log.swaps[0][0]
    hop_s = stream.hop_s
    assert late - quick >= 200 / hop_s - 2 * AT_ONCE, "two looks, a hundred seconds each"


def test_the_service_adapts_in_its_child_and_goes_by_the_clock_of_the_stream(run, stream):
    _, log, row = run(stream, "edgetuner")
    names = [name for _, name in log.events]
    assert {"drift", "adaptation_started", "gate"} <= set(names)
    assert "failures" not in row and row["trainings"] == names.count("adaptation_started")
    assert row["swaps"] == names.count("swap")
    assert all(stream.label[n] >= 0 for n in log.trained_on)
    ends = [at for at, name in log.events if name in ("gate", "adaptation_failed")]
    starts = [at for at, name in log.events if name == "adaptation_started"]
    for start, end, seconds in zip(starts, ends, log.adapt_seconds, strict=False):
        assert end - start >= seconds / stream.hop_s, "the stream goes on while it trains"


def test_fine_tuning_leaves_its_model_alone_and_moves_every_weight(wave_home, wave_version):
    model = Model(wave_version._module, wave_version)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    x, y = wave_home.away.x[::5], torch.from_numpy(wave_home.away.y[::5])
    tuned = fine_tuned(model.module, model.scaled(x), y, RATE, seed=0)
    assert all(torch.equal(v, before[n]) for n, v in model.module.state_dict().items())
    for name, weight in tuned.named_parameters():
        assert not torch.equal(weight, before[name]), name
    again = fine_tuned(model.module, model.scaled(x), y, RATE, seed=0)
    pairs = zip(tuned.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_every_policy_answers_every_window(run, wave_home):
    stream = SCENARIOS["stationary"](Cast(wave_home, 30, 55, seed=0))
    for name in POLICIES:
        predicted, _, row = run(stream, name)
        assert len(predicted) == len(stream) and row["windows"] == len(stream)
