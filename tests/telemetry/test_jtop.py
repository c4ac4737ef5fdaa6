"""jtop behind a real child process: it works, hangs, refuses, goes stale, dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edgetuner.errors import TelemetryError
from edgetuner.telemetry.jtop import Jtop
from edgetuner.telemetry.source import Options

from .conftest import PATIENCE_S, Clock, FakeJtop

CHILD = [sys.executable, "-m", "edgetuner.telemetry.jtop_child", "0.01"]


@contextmanager
def opened(root: Path, clock: Clock, settle_s: float = PATIENCE_S) -> Iterator[Jtop]:
    options = Options(interval_s=0.01, sysroot=root, settle_s=settle_s, clock=clock)
    with closing(Jtop(options)) as source:
        yield source


def settled(source: Jtop) -> None:
    """Wait for the child at work to give a reading, or to end."""
    assert source._child is not None
    source._child.wait(PATIENCE_S)


def test_a_reading(computer: Path, clock: Clock, fake_jtop: FakeJtop) -> None:
    fake_jtop("works")
    with opened(computer, clock) as source:
        sample = source.read()
    assert sample.source == "jtop"
    assert sample.total_power_w == 5.081
    assert sample.temperature_c == {"cpu": 48.5, "gpu": 47.25}
    assert sample.gpu_load == 0.125
    assert sample.power_mode == "15W"
    assert sample.memory_total_bytes == 7_802_880 * 1024
    assert sample.over_current is None


def test_closing_ends_the_child(computer: Path, clock: Clock, fake_jtop: FakeJtop) -> None:
    fake_jtop("works")
    with opened(computer, clock) as source:
        pid = fake_jtop.started()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(TelemetryError, match="is closed"):
        source.read()
    source.close()


def test_one_that_hangs_is_killed_and_tried_again_later_and_later(
    computer: Path, clock: Clock, fake_jtop: FakeJtop
) -> None:
    fake_jtop("hangs")
    with opened(computer, clock, settle_s=0) as source:
        for backoff_s in (5, 10, 20):
            pid = fake_jtop.started()
            with pytest.raises(TelemetryError, match=r"telemetry.jtop: is starting"):
                source.read()
            clock.advance(11)
            with pytest.raises(TelemetryError, match=r"no fresh reading in 10\.03 s; .*sysfs"):
                source.read()
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            clock.advance(backoff_s - 0.5)
            with pytest.raises(TelemetryError, match="no fresh reading"):
                source.read()
            assert fake_jtop.no_start_pending()
            clock.advance(1)
            with pytest.raises(TelemetryError, match="is starting"):
                source.read()


def test_one_that_recovers(computer: Path, clock: Clock, fake_jtop: FakeJtop) -> None:
    fake_jtop("raises")
    with opened(computer, clock) as source:
        with pytest.raises(TelemetryError, match=r"The jtop.service is not active\. Please run"):
            source.read()
        fake_jtop("works")
        clock.advance(6)
        with pytest.raises(TelemetryError, match="is starting"):
            source.read()
        settled(source)
        assert source.read().total_power_w == 5.081


def test_old_data_is_absent(computer: Path, clock: Clock, fake_jtop: FakeJtop) -> None:
    fake_jtop("stale")
    with opened(computer, clock) as source:
        pid = fake_jtop.started()
        assert source.read().total_power_w == 5.081
        clock.advance(0.14)  # three intervals of the server, which is slower than ours
        assert source.read().aged(clock()).age_s == pytest.approx(0.14)
        clock.advance(0.02)
        with pytest.raises(TelemetryError, match=r"served old data for 0\.15 s"):
            source.read()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_server_that_never_measures_gives_no_first_reading(
    computer: Path, clock: Clock, fake_jtop: FakeJtop
) -> None:
    fake_jtop("never")  # three lines with one uptime, then the end
    with opened(computer, clock) as source:
        assert source._child is not None
        source._child._listener.join(PATIENCE_S)
        assert source._child.reading is None


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        ("dies", "its process ended with status 3"),
        ("breaks", "jtop failed: KeyError: 'power'"),
        ("stops", "jtop stopped reading"),
    ],
)
def test_one_that_ends(
    computer: Path, clock: Clock, fake_jtop: FakeJtop, behaviour: str, complaint: str
) -> None:
    fake_jtop(behaviour)
    with opened(computer, clock) as source:
        settled(source)
        assert source._child is not None
        source._child._listener.join(PATIENCE_S)
        with pytest.raises(TelemetryError, match=complaint):
            source.read()


def test_one_that_is_not_installed_is_not_tried_again(
    computer: Path, clock: Clock, fake_jtop: FakeJtop
) -> None:
    fake_jtop("absent")
    with opened(computer, clock) as source:
        for _ in range(2):
            with pytest.raises(TelemetryError, match=r"cannot be imported.*edgetuner\[jetson\]"):
                source.read()
            clock.advance(1e6)
        assert source._child is None


def test_an_interpreter_that_cannot_be_started(
    computer: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(computer / "no-python"))
    with (
        opened(computer, clock) as source,
        pytest.raises(TelemetryError, match="cannot be started: No such file"),
    ):
        source.read()


def test_the_child_ends_with_its_standard_input(fake_jtop: FakeJtop) -> None:
    fake_jtop("hangs")
    with subprocess.Popen(CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        fake_jtop.started()
        assert child.stdin is not None
        child.stdin.close()
        try:
            assert child.wait(PATIENCE_S) == 0
        finally:
            child.kill()


def test_the_child_does_not_outlive_a_parent_that_is_killed(
    fake_jtop: FakeJtop, process_ends: Callable[[int], bool]
) -> None:
    fake_jtop("hangs")
    program = (
        "import threading; from edgetuner.telemetry.jtop import Jtop; "
        "from edgetuner.telemetry.source import Options; "
        "source = Jtop(Options(settle_s=0)); threading.Event().wait()"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        child_pid = fake_jtop.started()
        parent.send_signal(signal.SIGKILL)
    assert process_ends(child_pid)


def test_what_the_library_prints_is_no_reading(fake_jtop: FakeJtop) -> None:
    fake_jtop("raises")
    with subprocess.Popen(
        CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        (line,) = child.stdout.readlines()  # until the child ends
    assert json.loads(line)["error"].startswith("The jtop.service is not active")
