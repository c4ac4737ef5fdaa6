"""What lies on disk: modes, locks, damage, full disks, and what a loss of power would leave."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgetuner.errors import StoreError
from edgetuner.store import Entry, Store
from edgetuner.store.schema import APPLICATION_ID
from tests.store.windows import (
    CLASSES,
    KEY,
    SHAPE,
    add,
    add_predicted,
    entry,
    label,
    opened,
    same_bits,
    samples,
)

Reopen = Callable[..., Store]
NOBODY = 65534

OPEN_IN_A_CHILD = f"""
import sys
from pathlib import Path
from edgetuner.errors import StoreError
from edgetuner.store import Store
try:
    Store.open(Path(sys.argv[1]), shape={SHAPE}, classes={CLASSES}, durability=sys.argv[2])
except StoreError as error:
    print(error)
"""


def pragma(store: Store, name: str, database: str = "main") -> object:
    return store._database.value(f"PRAGMA {database}.{name}")


def refused(path: Path, **options: object) -> StoreError:
    """The error of opening `path`, which must name the file, offer a remedy, and change nothing."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError) as caught:
        opened(path, **options)
    error = caught.value
    assert error.field == str(path)
    assert error.remedy
    assert (path.read_bytes() if path.is_file() else None) == before
    return error


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """root may write anywhere, so the test is somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter and read, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp(prefix="et-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a tiny disk")
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# on disk when it returns


@pytest.mark.parametrize(("durability", "database"), [("all", "main"), ("sampled", "disk")])
def test_every_commit_waits_for_the_disk(reopen: Reopen, durability: str, database: str) -> None:
    store = reopen(durability=durability)
    assert pragma(store, "synchronous", database) == 2  # FULL: fsync of the log at each commit
    assert pragma(store, "journal_mode", database) == "wal"
    assert pragma(store, "locking_mode", database) == "exclusive"


def test_the_files_as_they_lie_after_each_call_hold_all_of_it(
    store: Store, path: Path, tmp_path: Path
) -> None:
    """What another process reads at that moment is what the kernel was given before the answer."""
    for n in range(0, 40, 8):
        rows = add(store, *range(n, n + 8))
        store.add_labels([label(n, 2), label(n + 8, 1)])
        store.record([(row, 0, 0.5, "v1") for row in rows[:4]])
        copy = tmp_path / f"copy{n}.db"
        for suffix in ("", "-wal"):
            subprocess.run(["cp", f"{path}{suffix}", f"{copy}{suffix}"], check=True)
        with closing(opened(copy)) as taken:
            assert taken.next_seqs() == {KEY: n + 8}
            assert len(taken.context({KEY: 0}, 100)) == n // 2 + 4
            assert taken.add_labels([label(n, 2), label(n + 8, 1)])[0].outcome == "duplicate"
            windows = taken.unpredicted(100)
            assert [w.seq for w in windows][-4:] == list(range(n + 4, n + 8))
            assert all(same_bits(w.x, samples(w.seq)) for w in windows)


def test_only_the_owner_may_read(store: Store, path: Path) -> None:
    add(store, 0)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_a_loose_mode_is_tightened(reopen: Reopen, path: Path) -> None:
    reopen().close()
    path.chmod(0o644)
    add(reopen(), 0)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_closing_leaves_one_file_and_can_be_repeated(store: Store, path: Path) -> None:
    add(store, 0)
    store.close()
    store.close()
    assert list(path.parent.iterdir()) == [path]


# one process


@pytest.mark.parametrize("durability", ["all", "sampled"])
def test_a_second_process_is_refused(reopen: Reopen, path: Path, durability: str) -> None:
    store = reopen(durability=durability)
    child = [sys.executable, "-c", OPEN_IN_A_CHILD, str(path), durability]
    result = subprocess.run(child, capture_output=True, text=True, check=True)
    assert result.stdout == (
        f"{path}: database is locked; "
        "stop the other edgetuner that uses this store, or choose another path\n"
    )
    add(store, 0)


def test_a_second_store_in_this_process_is_refused_too(store: Store, path: Path) -> None:
    with pytest.raises(StoreError, match="database is locked"):
        opened(path)
    add(store, 0)


# not ours, or not whole


def test_a_text_file_is_left_alone(path: Path) -> None:
    path.write_text("dear diary, " * 100)
    assert refused(path).problem == "file is not a database"


def test_an_empty_file_is_a_lost_store_and_not_a_new_one(path: Path) -> None:
    path.touch()
    assert refused(path).value == 0


def test_somebody_elses_database_is_left_alone(path: Path) -> None:
    edit(path, "CREATE TABLE photos (x)", "PRAGMA application_id = 7")
    assert refused(path).problem.startswith("not a store of this version: application_id")


def test_another_version_is_left_alone(path: Path) -> None:
    edit(path, f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 99")
    error = refused(path)
    assert error.problem == "not a store of this version: user_version is not 2"
    assert error.value == 99


@pytest.mark.parametrize(
    "change", ["DROP INDEX window_stage", "ALTER TABLE stream ADD COLUMN x", "CREATE TABLE y (x)"]
)
def test_changed_tables_are_refused(reopen: Reopen, path: Path, change: str) -> None:
    reopen().close()
    edit(path, change)
    assert refused(path).value == "other tables"


@pytest.mark.parametrize("durability", ["all", "sampled"])
def test_a_damaged_file_is_refused(reopen: Reopen, path: Path, durability: str) -> None:
    store = reopen()
    add(store, *range(200))
    store.close()
    whole = path.read_bytes()
    assert len(whole) > 12 * 4096
    path.write_bytes(whole[: 8 * 4096] + b"\xaa" * 4096 + whole[9 * 4096 :])
    error = refused(path, durability=durability)
    assert "damaged" in error.problem or "malformed" in error.problem
    path.write_bytes(whole)
    assert len(reopen(durability=durability).unpredicted(1000)) == 200


def test_a_truncated_file_is_refused(reopen: Reopen, path: Path) -> None:
    store = reopen()
    add(store, *range(200))
    store.close()
    path.write_bytes(path.read_bytes()[: 8 * 4096])
    assert refused(path).remedy == "restore a copy, or move the file away to begin anew"


def test_a_log_without_its_store_is_refused(path: Path) -> None:
    log = path.with_name(f"{path.name}-wal")
    log.write_bytes(b"x" * 100)
    with pytest.raises(StoreError, match="a write-ahead log lies here without its store") as caught:
        opened(path)
    assert caught.value.field == str(log)
    assert list(path.parent.iterdir()) == [log]


@pytest.mark.parametrize("other", [{"classes": CLASSES[::-1]}, {"shape": (2, 17)}])
def test_windows_of_another_task_are_refused(
    reopen: Reopen, path: Path, other: dict[str, object]
) -> None:
    add(reopen(), 0)
    reopen().close()
    assert refused(path, **other).problem == "the store holds windows of another task"


def test_a_missing_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "no" / "where.db").problem == "No such file or directory"


def test_a_folder_in_the_place_of_the_file(path: Path) -> None:
    path.mkdir()
    assert refused(path).problem == "unable to open database file"


def test_a_folder_that_cannot_be_written(open_folder: Path, unprivileged: None) -> None:
    if os.getuid() != 0:
        open_folder.chmod(0o555)
    assert refused(open_folder / "windows.db").problem == "Permission denied"


def test_a_file_that_cannot_be_written(open_folder: Path) -> None:
    path = open_folder / "windows.db"
    opened(path).close()
    path.chmod(0o444)
    open_folder.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(NOBODY)
    try:
        assert refused(path).remedy
    finally:
        os.seteuid(os.getuid())


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%20 d.db"
    with closing(opened(path)) as store:
        add(store, 0)
    with closing(opened(path, durability="sampled")) as store:
        assert store.cursors(KEY[0]) == {KEY[1]: 0}
    assert list(tmp_path.iterdir()) == [path]


# a full disk


def big(seq: int) -> Entry:
    return entry(seq, x=samples(seq, (8, 512)))  # 16 KiB


def until_full(store: Store) -> tuple[int, StoreError]:
    """Stores batches of three until one is refused; returns the first seq that is not held."""
    for seq in range(0, 3000, 3):
        try:
            receipts = store.add([big(seq), big(seq + 1), big(seq + 2)])
        except StoreError as error:
            return seq, error
        assert all(receipt.outcome == "stored" for receipt in receipts)
    raise AssertionError("the disk was never full")


@pytest.mark.parametrize("durability", ["all", "sampled"])
def test_a_full_disk_loses_nothing_and_passes(tiny_disk: Path, durability: str) -> None:
    path, ballast = tiny_disk / "windows.db", tiny_disk / "ballast"
    options = {"shape": (8, 512), "durability": durability, "sample_every": 1}
    store = opened(path, **options)
    ballast.write_bytes(b"x" * (12 << 20))
    seq, error = until_full(store)
    assert (error.field, error.problem) == (str(path), "database or disk is full")
    assert error.remedy == "free space on this disk, or allow the store less room"
    assert seq > 0
    assert store.next_seqs() == {KEY: seq}
    assert len(store.unpredicted(3000)) == seq, "reading goes on"
    ballast.unlink()
    assert all(r.outcome == "stored" for r in store.add([big(seq), big(seq + 1)]))
    store.close()
    with closing(opened(path, **options)) as store:
        windows = store.unpredicted(3000)
        assert [window.seq for window in windows] == list(range(seq + 2))
        assert all(same_bits(w.x, samples(w.seq, (8, 512))) for w in windows)


def test_a_file_that_may_not_grow_loses_nothing_and_passes(path: Path) -> None:
    """The same without a mount, for those who are not root."""
    with closing(opened(path, shape=(8, 512))) as store:
        pragma(store, "max_page_count = 60")
        seq, error = until_full(store)
        assert error.problem == "database or disk is full"
        assert store.next_seqs() == {KEY: seq}
        pragma(store, "max_page_count = 100000")
        assert all(r.outcome == "stored" for r in store.add([big(seq), big(seq + 1)]))
        assert [window.seq for window in store.unpredicted(3000)] == list(range(seq + 2))


def test_labels_and_predictions_on_a_full_disk(path: Path) -> None:
    with closing(opened(path)) as store:
        rows = add(store, *range(300))
        pragma(store, "max_page_count = 1")  # as few as it has
        with pytest.raises(StoreError, match="database or disk is full"):
            store.record([(row, 1, 0.5, "a version with a long name" * 20) for row in rows])
        assert len(store.unpredicted(1000)) == 300
        pragma(store, "max_page_count = 100000")
        assert all(store.record([(row, 1, 0.5, "v1") for row in rows]))
        assert add_predicted(store, 300)
