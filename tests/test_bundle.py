from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors

from edgetuner import bundle as bundles
from edgetuner.bundle import (
    FILES,
    MANIFEST,
    REQUIRED,
    SUFFIXES,
    Bundle,
    Description,
    Tensors,
    describe,
    read_manifest,
    verify,
    write_bundle,
)
from edgetuner.errors import BundleError


def tensors() -> Tensors:
    rng = np.random.default_rng(0)
    return Tensors(
        weights={
            "conv.weight": rng.normal(size=(4, 2, 3)).astype(np.float32),
            "head.weight": rng.normal(size=(4, 3)).astype(np.float32).T,  # not contiguous
            "norm.num_batches_tracked": np.array(7),
        },
        mean=np.array([0, 1], np.float32),
        std=np.array([1, 2], np.float32),
        reference={"means": rng.normal(size=(3, 4)).astype(np.float32)},
        sensor={"low": np.array([-1, -2], np.float32)},
        exemplar_x=rng.normal(size=(6, 2, 8)).astype(np.float16),
        exemplar_y=np.array([0, 0, 1, 1, 2, 2]),
        suffixes={"tt/conv": rng.normal(size=(2, 2, 3)).astype(np.float32)},
    )


def without_suffixes() -> Tensors:
    return replace(tensors(), suffixes={})


SUFFIX = np.ones((2, 2, 3), np.float32)


def description(**changes: Any) -> Description:
    known: dict[str, Any] = {
        "backbone": {"name": "small_cnn", "args": {"width": 4}},
        "classes": ("rest", "walk", "run"),
        "channels": ("x", "y"),
        "length": 8,
        "hz": 50.0,
        "metrics": {"held_out_macro_f1": 0.9},
    }
    return describe(**{**known, **changes})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "b", tensors(), description())


def test_everything_comes_back(bundle: Bundle) -> None:
    loaded, written = Bundle.load(bundle.path), tensors()
    for field in fields(Tensors):
        got, want = getattr(loaded, field.name), getattr(written, field.name)
        pairs = [(got[k], want[k]) for k in want] if isinstance(want, dict) else [(got, want)]
        for a, b in pairs:
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            np.testing.assert_array_equal(a, b)
    assert set(loaded.weights) == set(written.weights)
    assert set(loaded.reference) == {"means"}
    assert set(loaded.sensor) == {"low"}
    assert set(loaded.suffixes) == {"tt/conv"}
    assert loaded.manifest.description == description()
    assert verify(bundle.path) == loaded.manifest == read_manifest(bundle.path)


def test_a_window_lasts_as_long_as_its_samples() -> None:
    assert description().window_ns == 160_000_000  # 8 at 50 Hz
    assert description(length=100, hz=30.0).window_ns == 3_333_333_333


def test_arrays_can_be_written_to(bundle: Bundle) -> None:
    # torch warns of memory that it may not write to
    assert Bundle.load(bundle.path).mean.flags.writeable


def test_the_version_follows_from_the_contents(bundle: Bundle, tmp_path: Path) -> None:
    prefix, _, digest = bundle.version.rpartition("-")
    assert (prefix, len(digest)) == ("model", 12)
    again = write_bundle(tmp_path / "again", tensors(), description())
    assert again.version == bundle.version
    other = replace(tensors(), mean=np.array([0, 2], np.float32))
    assert write_bundle(tmp_path / "c", other, description()).version != bundle.version
    renamed = description(classes=("rest", "run", "walk"))
    assert write_bundle(tmp_path / "d", tensors(), renamed).version != bundle.version
    assert write_bundle(tmp_path / "e", tensors(), description(), prefix="a7").version == (
        bundle.version.replace("model", "a7")
    )


def test_suffixes_may_be_absent(bundle: Bundle, tmp_path: Path) -> None:
    bare = write_bundle(tmp_path / "bare", without_suffixes(), description())
    assert set(bare.manifest.files) == set(REQUIRED)
    assert {file.name for file in bare.path.iterdir()} == {MANIFEST, *REQUIRED}
    assert Bundle.load(bare.path).suffixes == {}
    assert verify(bare.path).version == bare.version != bundle.version
    other = {"tt/conv": 2 * tensors().suffixes["tt/conv"]}
    changed = write_bundle(tmp_path / "c", replace(tensors(), suffixes=other), description())
    assert changed.version not in (bare.version, bundle.version)


def test_the_version_of_a_bundle_made_before_there_were_suffixes_stays(tmp_path: Path) -> None:
    bare = write_bundle(tmp_path / "bare", without_suffixes(), description())
    content = {
        "description": description().model_dump(mode="json"),
        "files": {name: sha256((bare.path / name).read_bytes()).hexdigest() for name in REQUIRED},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert bare.version == f"model-{sha256(text.encode()).hexdigest()[:12]}"


def test_suffixes_that_are_not_listed_are_not_read(bundle: Bundle, tmp_path: Path) -> None:
    bare = write_bundle(tmp_path / "bare", without_suffixes(), description())
    shutil.copy(bundle.path / SUFFIXES, bare.path / SUFFIXES)
    assert Bundle.load(bare.path).suffixes == {}
    (bare.path / SUFFIXES).unlink()
    os.mkfifo(bare.path / SUFFIXES)  # opening it would tell, or hang
    assert Bundle.load(bare.path).suffixes == {}


@pytest.mark.parametrize("change", ["unlist", "list"])
def test_suffixes_cannot_be_listed_or_unlisted_later(
    bundle: Bundle, tmp_path: Path, change: str
) -> None:
    bare = write_bundle(tmp_path / "bare", without_suffixes(), description())
    entry = json.loads((bundle.path / MANIFEST).read_text())["files"][SUFFIXES]
    if change == "unlist":
        _edit(bundle.path / MANIFEST, lambda m: m["files"].pop(SUFFIXES))
        altered = bundle.path
    else:
        shutil.copy(bundle.path / SUFFIXES, bare.path / SUFFIXES)
        _edit(bare.path / MANIFEST, lambda m: m["files"].update({SUFFIXES: entry}))
        altered = bare.path
    with pytest.raises(BundleError, match="hash in the version id"):
        Bundle.load(altered)


def test_group_may_read_and_others_may_not(bundle: Bundle) -> None:
    assert stat.S_IMODE(bundle.path.stat().st_mode) == 0o750
    for name in (MANIFEST, *FILES):
        assert stat.S_IMODE((bundle.path / name).stat().st_mode) == 0o640


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("offset", [0, 20, -1])
def test_a_flipped_bit_is_found(bundle: Bundle, name: str, offset: int) -> None:
    _flip(bundle.path / name, offset)
    with pytest.raises(BundleError, match=rf"{name}: does not match the hash.*restore"):
        Bundle.load(bundle.path)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_longer_file_is_found(bundle: Bundle, name: str) -> None:
    whole = (bundle.path / name).read_bytes()
    for content in (whole[:-1], b"", whole + b"\0"):
        (bundle.path / name).write_bytes(content)
        with pytest.raises(BundleError, match=f"{name}: does not match the hash"):
            Bundle.load(bundle.path)


@pytest.mark.parametrize("name", (MANIFEST, *FILES))
def test_a_missing_file_is_named(bundle: Bundle, name: str) -> None:
    (bundle.path / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: is missing"):
        Bundle.load(bundle.path)


@pytest.mark.parametrize("name", (MANIFEST, *FILES))
def test_a_link_is_not_followed(bundle: Bundle, name: str) -> None:
    file = bundle.path / name
    moved = file.rename(bundle.path.parent / name)
    file.symlink_to(moved)
    with pytest.raises(BundleError, match=f"{name}: is a symbolic link"):
        Bundle.load(bundle.path)


def test_a_pipe_does_not_block(bundle: Bundle) -> None:
    file = bundle.path / FILES[0]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BundleError, match="is no regular file"):
        Bundle.load(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "schema_version.*2.*make the bundle again"),
        (lambda m: m.pop("schema_version"), "schema_version"),
        (lambda m: m.update(note="hello"), "note: is refused: Extra inputs"),
        (lambda m: m["backbone"].update(code="x"), "backbone.code: is refused"),
        (lambda m: m.pop("classes"), "classes: is refused"),
        (lambda m: m.update(hz=-1), "hz: is refused"),
        (lambda m: m.update(version="../../etc-0123456789ab"), "version: is refused"),
        (lambda m: m["files"].update({"../evil": m["files"][FILES[0]]}), "files must be exactly"),
        (lambda m: m["files"].pop(FILES[1]), "files must be exactly"),
        (lambda m: m["backbone"].update(factory="os:system"), "either name or factory"),
        (lambda m: m["metrics"].update(held_out_macro_f1=1.0), "hash in the version id"),
        (lambda m: m["classes"].reverse(), "hash in the version id"),
        (lambda m: m["files"][FILES[0]].update(sha256="0" * 64), "hash in the version id"),
    ],
)
def test_an_edited_manifest_is_refused(
    bundle: Bundle, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    _edit(bundle.path / MANIFEST, change)
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle.path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 21)]
)
def test_a_manifest_that_is_no_json_object(bundle: Bundle, content: bytes) -> None:
    (bundle.path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest.json: is no JSON object"):
        Bundle.load(bundle.path)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is missing"):
        Bundle.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is missing, or no folder"):
        Bundle.load(tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mean": np.zeros(3, np.float32)}, "mean"),
        ({"mean": np.zeros(2)}, "mean"),
        ({"std": np.array([1, 0], np.float32)}, "std"),
        ({"std": np.array([1, np.inf], np.float32)}, "std"),
        ({"exemplar_x": np.zeros((6, 2, 9), np.float16)}, "exemplar_x"),
        ({"exemplar_x": np.zeros((0, 2, 8), np.float16)}, "exemplar_x"),
        ({"exemplar_x": np.full((6, 2, 8), np.nan, np.float16)}, "exemplar_x"),
        ({"exemplar_y": np.zeros(5, np.int64)}, "exemplar_y"),
        ({"exemplar_y": np.full(6, 3)}, "exemplar_y"),
        ({"weights": {"head.weight": np.array([np.nan])}}, "head.weight"),
        ({"weights": {"head.weight": np.array(["a"])}, "suffixes": {}}, "weights.safetensors"),
        *(({"suffixes": {key: SUFFIX}}, key) for key in ("tt/stem", "conv", "/conv", "tt/head")),
        *(
            ({"suffixes": {"tt/conv": array}}, "tt/conv")
            for array in (
                SUFFIX.astype(np.float64),
                SUFFIX * np.float32("nan"),
                SUFFIX[:, :1],
                SUFFIX[0],
                SUFFIX[:0],
                np.float32(1).reshape(()),
                np.ones((5, 2, 3), np.float32),  # the kernel allows 4
            )
        ),
    ],
)
def test_arrays_that_do_not_fit_are_not_written(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(BundleError) as caught:
        write_bundle(tmp_path / "b", replace(tensors(), **changes), description())
    assert str(caught.value.field).endswith(field)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "length", "message"),
    [
        ({}, 9, "exemplar_x: does not fit the manifest"),
        ({"suffixes": {"tt/conv": SUFFIX[..., :1]}}, 8, "tt/conv: does not fit its kernel"),
        ({"suffixes": {"tt/stem": SUFFIX}}, 8, "tt/stem: is the suffix of no kernel"),
    ],
)
def test_a_manifest_that_lies_about_shapes(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    length: int,
    message: str,
) -> None:
    """Hashes may be right and the contents wrong: somebody else's writer made this one."""
    monkeypatch.setattr(bundles, "_check", lambda *_: None)
    monkeypatch.setattr(Bundle, "load", lambda path: None)
    altered = replace(tensors(), **changes)
    write_bundle(bundle.path.parent / "c", altered, description(length=length))
    monkeypatch.undo()
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle.path.parent / "c")


def test_nothing_is_overwritten(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="already exists"):
        write_bundle(bundle.path, tensors(), description())
    link = bundle.path.parent / "dangling"
    link.symlink_to("nowhere")
    with pytest.raises(BundleError, match="already exists"):
        write_bundle(link, tensors(), description())
    assert Bundle.load(bundle.path).version == bundle.version


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match=r"No space left.*check free space"):
        write_bundle(tmp_path / "b", tensors(), description())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["", "A b", "../x", "x" * 60])
def test_prefixes_that_make_no_version(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(BundleError, match="version: is refused"):
        write_bundle(tmp_path / "b", tensors(), description(), prefix=prefix)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {}},
        {"backbone": {"factory": "os.path"}},
        {"classes": ("a",)},
        {"classes": ("a", "a")},
        {"channels": ()},
        {"length": 0},
        {"hz": float("nan")},
        {"metrics": {"f1": float("nan")}},
        {"colour": "red"},
    ],
)
def test_descriptions_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="is refused"):
        description(**changes)


def test_weights_are_a_plain_safetensors_file(bundle: Bundle) -> None:
    read = load_tensors((bundle.path / FILES[0]).read_bytes())
    np.testing.assert_array_equal(read["head.weight"], tensors().weights["head.weight"])
