"""A stream through the real sockets loses nothing and is labelled when it should be."""

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import live as module
from benchmarks.live import live
from benchmarks.scenarios import SCENARIOS, Cast


def test_every_window_is_acknowledged_and_answered_once(wave_home, wave_version):
    stream = SCENARIOS["sudden"](Cast(wave_home, 40, 80, seed=0))
    row = live(stream, wave_version, rate=400.0)
    assert row["acked"] == row["windows"] == len(stream)
    assert (row["missing"], row["doubled"], row["exit_code"]) == (0, 0, 0)
    assert row["curve"][0][1] > 0.9 and 0 <= row["auc"] < row["curve"][0][1]
    assert "drift" in [name for _, name in row["events"]]


def test_a_label_is_sent_after_its_window_and_not_before_it_is_due(wave_home):
    stream = SCENARIOS["late labels"](Cast(wave_home, 40, 380, seed=0))

    class Client:
        published, labels = 0, []

        def publish(self, name, x, *, t_ns, hz):
            self.published += 1
            return 1000 + self.published - 1  # a sequence that does not begin at zero

        def label(self, name, seq, label):
            self.labels.append((self.published - 1, seq - 1000, label))

        def flush(self, timeout):
            sensor.predicted[:] = 0

        def predictions(self, timeout):
            return []

    client = Client()
    sensor = module._Sensor(client, stream)
    sensor.send(rate=1e9)
    assert client.published == len(stream) and client.labels
    for now, row, name in client.labels:
        assert now == max(stream.due[row], row)
        assert name == stream.windows.classes[stream.windows.y[row]]
    told = np.flatnonzero((stream.label >= 0) & (stream.due < len(stream)))
    assert [row for _, row, _ in client.labels] == told.tolist()
