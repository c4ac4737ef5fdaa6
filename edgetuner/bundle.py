"""A bundle: one model version as a directory, complete and checked against its own hashes.

`manifest.json` says what the model is and gives the SHA-256 of the tensor files beside it:
`weights.safetensors` (the state dict), `reference.safetensors` (normalisation, drift
reference, sensor profile) and `exemplars.safetensors` (a few windows of each class, for those that
an adaptation does not see, and to measure what it forgets). A fourth, `suffixes.safetensors`, may
hold what LoRA-Edge freezes of each kernel, so that no adaptation has to take the kernels apart
again. The version id ends in a hash of the manifest, so a version cannot be altered and keep its
name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError

from edgetuner.config import FACTORY_PATTERN
from edgetuner.errors import BundleError

SCHEMA_VERSION = 1
VERSION_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,40}-[0-9a-f]{12}$"
MANIFEST = "manifest.json"
WEIGHTS, REFERENCE, EXEMPLARS = REQUIRED = (
    "weights.safetensors",
    "reference.safetensors",
    "exemplars.safetensors",
)
SUFFIXES = "suffixes.safetensors"  # may be absent
FILES = (*REQUIRED, SUFFIXES)

Array = NDArray[Any]
_MAX_MANIFEST_BYTES = 1 << 20
_DIRECTORY_MODE, _FILE_MODE = 0o750, 0o640
# Prefixes of the arrays in reference.safetensors, beside `mean` and `std`.
_DRIFT, _SENSOR = "drift.", "sensor."
_DAMAGED = "restore the bundle from where it was made; it is incomplete or was altered"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Strict):
    """What a file beside the manifest must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)


class Backbone(_Strict):
    """How the module is built: a backbone of `edgetuner.models`, or the user's own factory."""

    name: str | None = Field(default=None, description="key in edgetuner.models.BACKBONES")
    factory: str | None = Field(
        default=None,
        pattern=FACTORY_PATTERN,
        description="package.module:callable; imported only where the configuration allows it",
    )
    args: dict[str, Any] = Field(default_factory=dict, description="further keyword arguments")
    head: str = Field(default="head", min_length=1, description="name of the last nn.Linear")

    @model_validator(mode="after")
    def _one_of_both(self) -> Backbone:
        if (self.name is None) == (self.factory is None):
            raise ValueError("give either name or factory")
        return self


class Description(_Strict):
    """What its maker says of a model version."""

    backbone: Backbone
    classes: tuple[str, ...] = Field(min_length=2)
    channels: tuple[str, ...] = Field(min_length=1)
    length: int = Field(gt=0, description="samples in a window")
    hz: float = Field(gt=0, description="sampling rate in hertz")
    metrics: dict[str, float] = Field(
        default_factory=dict, description="what was measured; shares of one"
    )
    training: dict[str, Any] | None = Field(default=None, description="how it was trained")
    parent: str | None = Field(default=None, description="version this one was adapted from")
    adaptation: dict[str, Any] | None = Field(
        default=None, description="how the parent was adapted"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Description:
        for which in ("classes", "channels"):
            names = getattr(self, which)
            if len(set(names)) != len(names):
                raise ValueError(f"{which} must be distinct")
        return self

    @property
    def window_ns(self) -> int:
        """Duration of a window in nanoseconds."""
        return round(1e9 * self.length / self.hz)


class Manifest(Description):
    """The description, and what makes it this version and no other."""

    schema_version: Literal[1] = 1
    version: str = Field(pattern=VERSION_PATTERN)
    created: datetime = Field(description="UTC")
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _exactly_the_files(self) -> Manifest:
        # Names are compared before one is joined to a path: none can point outside the directory.
        if set(self.files) - {SUFFIXES} != set(REQUIRED):
            raise ValueError(
                f"files must be exactly {', '.join(REQUIRED)}, with or without {SUFFIXES}"
            )
        return self

    @property
    def description(self) -> Description:
        """The description alone, to derive the next version from."""
        return Description.model_validate(self.model_dump(include=set(Description.model_fields)))


@dataclass(frozen=True, eq=False)
class Tensors:
    """The arrays of a model version.

    Attributes:
        weights: the module's state dict, name to array.
        mean, std: per-channel normalisation of raw windows, float32 (C,); std > 0.
        reference: the arrays of the drift reference (`drift.reference.Reference.to_arrays()`).
        sensor: the arrays of the sensor's profile (`drift.sensor.SensorProfile.to_arrays()`).
        exemplar_x: windows that stand for the classes, raw, float16 (M, C, T), M >= 1: of the
            source, and in an adapted version of what it was adapted to.
        exemplar_y: their class indices, int64 (M,).
        suffixes: the frozen suffixes of kernels `<layer>.weight` (O, I/g, *K) by
            `<decomposition>/<layer>`, float32 (r, I/g, *K), r from 1 to the lesser side of the
            kernel as an O x (I/g K) matrix; empty if none are stored. Shapes are checked; that they
            were computed from these very weights is up to whoever makes the version.
    """

    weights: Mapping[str, Array]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    reference: Mapping[str, Array]
    sensor: Mapping[str, Array]
    exemplar_x: NDArray[np.float16]
    exemplar_y: NDArray[np.int64]
    suffixes: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bundle(Tensors):
    """A model version that was read from disk and verified in full."""

    path: Path
    manifest: Manifest

    @property
    def version(self) -> str:
        return self.manifest.version

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Reads a bundle and checks every hash, shape and index.

        Raises:
            BundleError: a file is missing, a link, altered, or does not fit the manifest.
        """
        path = Path(path)
        manifest = read_manifest(path)
        # What the manifest does not list is not read, whatever lies there.
        listed = [name for name in FILES if name in manifest.files]
        tensors = _unpack(
            {name: _read_tensors(path / name, manifest.files[name]) for name in listed}
        )
        _check(tensors, manifest, path)
        return cls(**vars(tensors), path=path, manifest=manifest)


def verify(path: str | Path) -> Manifest:
    """Checks a bundle as `Bundle.load` does and returns its manifest.

    Raises:
        BundleError: as `Bundle.load`.
    """
    return Bundle.load(path).manifest


def read_manifest(path: str | Path) -> Manifest:
    """Reads and checks the manifest of the bundle at `path`, without its tensor files.

    Raises:
        BundleError: it is missing, unreadable, of another schema version, or altered.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises below a closed folder
        raise BundleError(
            "is missing, or no folder",
            field=str(path),
            remedy="name the one that `edgetuner bundle create` made",
        )
    file = Path(path) / MANIFEST
    content = _parse_json(_read(file, _MAX_MANIFEST_BYTES), file)
    found = content.get("schema_version")
    if found != SCHEMA_VERSION:
        raise BundleError(
            "has a schema version that this edgetuner does not read",
            field=f"{file}: schema_version",
            value=found,
            remedy=f"make the bundle again with an edgetuner that writes version {SCHEMA_VERSION}",
        )
    try:
        manifest = Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise _refused(error, str(file)) from error
    if manifest.version.rpartition("-")[2] != _digest(manifest, manifest.files):
        raise BundleError(
            "does not match the hash in the version id",
            field=str(file),
            value=manifest.version,
            remedy=_DAMAGED,
        )
    return manifest


def describe(**fields: Any) -> Description:
    """A description from keyword arguments.

    Raises:
        BundleError: a field is missing, unknown or out of range.
    """
    try:
        return Description(**fields)
    except ValidationError as error:
        raise _refused(error, "description") from error


def write_bundle(
    out: str | Path, tensors: Tensors, description: Description, *, prefix: str = "model"
) -> Bundle:
    """Writes a bundle atomically: `out` is either complete or not there.

    Args:
        out: directory that does not exist yet; its parent is made where missing.
        tensors: the arrays.
        description: what the version is.
        prefix: first part of the version id, lower-case letters, digits, dot and dash.

    Returns:
        The bundle as read back from `out`. Its version id is `<prefix>-<12 hex digits>`, a hash of
        the description and of the contents of the files; the same contents give the same id.

    Raises:
        BundleError: the arrays do not fit the description, or `out` exists or cannot be written.
    """
    out = Path(out)
    _check(tensors, description, out)
    blobs = _pack(tensors)
    entries = {
        name: FileEntry(sha256=hashlib.sha256(blob).hexdigest(), bytes=len(blob))
        for name, blob in blobs.items()
    }
    try:
        manifest = Manifest(
            **description.model_dump(),
            version=f"{prefix}-{_digest(description, entries)}",
            created=datetime.now(timezone.utc).replace(microsecond=0),
            files=entries,
        )
    except ValidationError as error:
        raise _refused(error, str(out)) from error
    blobs[MANIFEST] = manifest.model_dump_json(indent=2).encode() + b"\n"
    _write_directory(out, blobs)
    return Bundle.load(out)


def _digest(description: Description, files: Mapping[str, FileEntry]) -> str:
    """12 hex digits over all that makes a version: its description and the hashes of its files."""
    content = {
        "description": description.model_dump(mode="json", include=set(Description.model_fields)),
        "files": {name: entry.sha256 for name, entry in files.items()},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _pack(tensors: Tensors) -> dict[str, bytes]:
    reference = {
        "mean": tensors.mean,
        "std": tensors.std,
        **{_DRIFT + name: values for name, values in tensors.reference.items()},
        **{_SENSOR + name: values for name, values in tensors.sensor.items()},
    }
    files: dict[str, Mapping[str, Array]] = {
        WEIGHTS: tensors.weights,
        REFERENCE: reference,
        EXEMPLARS: {"x": tensors.exemplar_x, "y": tensors.exemplar_y},
    }
    if tensors.suffixes:
        files[SUFFIXES] = tensors.suffixes
    return {name: _serialise(arrays, name) for name, arrays in files.items()}


def _unpack(files: Mapping[str, dict[str, Array]]) -> Tensors:
    reference, exemplars = files[REFERENCE], files[EXEMPLARS]

    def part(prefix: str) -> dict[str, Array]:
        names = [name for name in reference if name.startswith(prefix)]
        return {name.removeprefix(prefix): reference[name] for name in names}

    missing = np.empty(0)  # has no shape that fits, so that the check names what is missing
    return Tensors(
        weights=files[WEIGHTS],
        mean=reference.get("mean", missing),
        std=reference.get("std", missing),
        reference=part(_DRIFT),
        sensor=part(_SENSOR),
        exemplar_x=exemplars.get("x", missing),
        exemplar_y=exemplars.get("y", missing),
        suffixes=files.get(SUFFIXES, {}),
    )


def _serialise(arrays: Mapping[str, Array], file: str) -> bytes:
    # safetensors writes the buffer as it lies in memory, so a transposed view has to be copied
    # first; `ascontiguousarray` would turn a scalar into an array of one.
    try:
        return safetensors.numpy.save(
            {name: np.asarray(a, order="C") for name, a in arrays.items()}
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            "cannot be stored", field=file, value=str(error), remedy="use plain arrays"
        ) from error


def _check(tensors: Tensors, description: Description, where: Path) -> None:
    c, t, k = len(description.channels), description.length, len(description.classes)
    x, y = tensors.exemplar_x, tensors.exemplar_y
    expected: tuple[tuple[str, Array, type[np.generic], tuple[int, ...]], ...] = (
        ("mean", tensors.mean, np.float32, (c,)),
        ("std", tensors.std, np.float32, (c,)),
        ("exemplar_x", x, np.float16, (max(len(x), 1), c, t)),
        ("exemplar_y", y, np.int64, (len(x),)),
    )
    for name, array, dtype, shape in expected:
        if array.dtype != dtype or array.shape != shape:
            raise BundleError(
                "does not fit the manifest",
                field=f"{where}: {name}",
                value=f"{array.dtype} {array.shape}",
                remedy=f"make it {np.dtype(dtype)} {shape}",
            )
    measured: list[tuple[str, Array]] = [("mean", tensors.mean), ("std", tensors.std)]
    learned = (*tensors.weights.items(), *tensors.suffixes.items())
    for name, array in (*measured, ("exemplar_x", x), *learned):
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise BundleError(
                "is not finite", field=f"{where}: {name}", remedy="train the model again"
            )
    if not (tensors.std > 0).all():
        raise BundleError("must be positive", field=f"{where}: std", value=tensors.std.tolist())
    if y.min() < 0 or y.max() >= k:
        raise BundleError(
            "is no index into classes", field=f"{where}: exemplar_y", remedy=f"use 0 to {k - 1}"
        )
    for name, array in tensors.suffixes.items():
        _check_suffix(name, array, tensors.weights, where)


def _check_suffix(name: str, array: Array, weights: Mapping[str, Array], where: Path) -> None:
    decomposition, _, layer = name.partition("/")
    kernel = weights.get(f"{layer}.weight")
    if not decomposition or kernel is None or kernel.ndim < 3:
        raise BundleError(
            "is the suffix of no kernel",
            field=f"{where}: {name}",
            remedy="name it <decomposition>/<layer>, after a convolution <layer>.weight",
        )
    inner = kernel.shape[1:]
    limit = min(len(kernel), math.prod(inner))
    fits = array.ndim and array.shape[1:] == inner and 1 <= len(array) <= limit
    if array.dtype != np.float32 or not fits:
        raise BundleError(
            "does not fit its kernel",
            field=f"{where}: {name}",
            value=f"{array.dtype} {array.shape}",
            remedy=f"make it float32 (r, {', '.join(map(str, inner))}), r from 1 to {limit}",
        )


def _read_tensors(file: Path, entry: FileEntry) -> dict[str, Array]:
    # The bytes that were hashed are the bytes that are parsed: nothing can change in between.
    content = _read(file, entry.bytes)
    if len(content) != entry.bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError(
            "does not match the hash in the manifest",
            field=str(file),
            value=f"{len(content)} bytes",
            remedy=_DAMAGED,
        )
    try:
        return safetensors.numpy.load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(
            "is no safetensors file", field=str(file), value=str(error), remedy=_DAMAGED
        ) from error


def _read(file: Path, limit: int) -> bytes:
    """The content of a regular file, at most `limit` + 1 bytes of it; a link is not followed."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError("is no regular file", field=str(file), remedy=_DAMAGED)
            return stream.read(limit + 1)
    except FileNotFoundError:
        raise BundleError("is missing", field=str(file), remedy=_DAMAGED) from None
    except OSError as error:
        problem = "is a symbolic link" if error.errno == errno.ELOOP else "cannot be read"
        raise BundleError(
            problem, field=str(file), value=error.strerror, remedy=_DAMAGED
        ) from error


def _parse_json(content: bytes, file: Path) -> dict[str, Any]:
    try:
        if len(content) > _MAX_MANIFEST_BYTES:
            raise ValueError(f"longer than {_MAX_MANIFEST_BYTES} bytes")
        parsed = json.loads(content)
        if not isinstance(parsed, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise BundleError(
            "is no JSON object", field=str(file), value=str(error), remedy=_DAMAGED
        ) from error
    return parsed


def _refused(error: ValidationError, where: str) -> BundleError:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    problem = first["msg"].removeprefix("Value error, ")
    return BundleError(
        f"is refused: {problem}",
        field=f"{where}: {name}" if name else where,
        value=first["input"] if name else None,
        remedy="make the bundle again with `edgetuner bundle create`",
    )


def _write_directory(out: Path, blobs: Mapping[str, bytes]) -> None:
    """Writes the files beside `out`, makes them durable, and renames the directory into place."""
    if out.exists() or out.is_symlink():
        raise BundleError(
            "already exists", field=str(out), remedy="choose another directory or remove it"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            draft = Path(scratch) / "bundle"
            draft.mkdir()
            for name, blob in blobs.items():
                _write_file(draft / name, blob)
            draft.chmod(_DIRECTORY_MODE)
            _sync_directory(draft)
            draft.rename(out)
        _sync_directory(out.parent)
    except OSError as error:
        raise BundleError(
            "cannot be written",
            field=str(out),
            value=error.strerror,
            remedy="check free space and permissions of the directory",
        ) from error


def _write_file(file: Path, blob: bytes) -> None:
    with file.open("xb") as stream:
        os.fchmod(stream.fileno(), _FILE_MODE)
        stream.write(blob)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
