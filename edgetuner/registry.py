"""Model versions on disk, and which of them is champion, candidate and previous.

    models/versions/ID/     a bundle each
    models/aliases.json     {"champion": ID, "candidate": ..., "previous": ..., "beside": ...}
    models/history.jsonl    what was done to which version, when and why

An alias moves by an atomic rename, so a loss of power leaves the old or the new state, never half
of one. The candidate is live while it is on probation; a restart comes up on the champion: the last
proven version, or a configured bundle that was installed since.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgetuner.bundle import Bundle, Manifest, read_manifest
from edgetuner.errors import BundleError, RegistryError, StoreError


@dataclass(frozen=True, slots=True)
class Aliases:
    """Version ids; None where nobody holds the name."""

    champion: str | None = None
    candidate: str | None = None
    previous: str | None = None
    beside: str | None = None  # answers beside the champion
    # The configured bundle that was taken last, wherever the others have moved since.
    installed: str | None = field(default=None, compare=False)


class Registry:
    """The versions below one folder; used by one process at a time.

    Args:
        root: the folder; made if it is missing.
        keep: versions kept by `prune` besides the aliased ones and the last two bundles that were
            installed.
    """

    def __init__(self, root: Path, keep: int = 5) -> None:
        self._versions = root / "versions"
        self._aliases_file = root / "aliases.json"
        self._history_file = root / "history.jsonl"
        self._keep = keep
        try:
            self._versions.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise StoreError(
                "cannot be made", field=str(root), value=error.strerror, remedy="check state_dir"
            ) from None
        self.aliases = self._read_aliases()
        if self.aliases.installed is None:  # written by an older version
            self.aliases = replace(self.aliases, installed=self._origin())

    def add(self, bundle_path: Path) -> str:
        """Copies a bundle in, under its own version id, and returns that; a known one is left
        alone, unless the copy has been damaged.

        Raises:
            BundleError: it is missing or altered.
        """
        bundle = Bundle.load(bundle_path)
        version = bundle.manifest.version
        target = self._versions / version
        if target.exists():
            try:
                Bundle.load(target)
            except BundleError:
                shutil.rmtree(target, ignore_errors=True)
        if not target.exists():
            staging = self._versions / f".{version}.incoming"
            shutil.rmtree(staging, ignore_errors=True)
            try:
                shutil.copytree(bundle_path, staging)
                _sync_tree(staging)
                staging.rename(target)
                _sync(self._versions)
            except OSError as error:
                shutil.rmtree(staging, ignore_errors=True)
                raise StoreError(
                    "cannot store the version",
                    field=str(target),
                    value=error.strerror,
                    remedy="free some disk space",
                ) from None
        return version

    def path(self, version: str) -> Path:
        """The folder of a version, given by its id or by an alias. Raises RegistryError if
        unknown.
        """
        found = getattr(self.aliases, version, None) if version in _ALIASES else version
        if not found or found not in self.ids():
            raise RegistryError(
                "no such version",
                field="version",
                value=version,
                remedy="`edgetuner models list` names them",
            )
        return self._versions / found

    def ids(self) -> list[str]:
        """Every version held, oldest first."""
        found = []
        for folder in self._versions.iterdir():
            if folder.name[0] == ".":
                continue
            with contextlib.suppress(FileNotFoundError):  # pruned in between
                about = folder.stat()
                if stat.S_ISDIR(about.st_mode):
                    found.append((about.st_mtime_ns, folder.name))
        return [name for _, name in sorted(found)]

    def manifest(self, version: str) -> Manifest:
        """The manifest of a version or alias."""
        return read_manifest(self.path(version))

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-compatible row a version, newest first."""
        # A previous version that is a candidate again is shown as that.
        names = {v: k for k, v in reversed(asdict(self.aliases).items()) if v}
        last = {entry["version"]: entry for entry in self.history()}
        rows = []
        for version in reversed(self.ids()):
            try:
                manifest = self.manifest(version)
            except (RegistryError, BundleError):
                if version in self.ids():
                    raise
                continue  # pruned in between
            rows.append(
                {
                    "version": version,
                    "alias": names.get(version),
                    "parent": manifest.parent,
                    "created": manifest.created,
                    "rung": (manifest.adaptation or {}).get("rung"),
                    "metrics": manifest.metrics,
                    "last": last.get(version, {}).get("action"),
                }
            )
        return rows

    # ------------------------------------------------------------------ the life of a version

    def replaces(self, bundle: Path) -> bool:
        """Whether a configured bundle is to be installed: it is another one than was taken last,
        whatever became of that.

        Raises:
            BundleError: it is missing, or its manifest is damaged.
            RegistryError: it was made for another task than the champion.
        """
        manifest = read_manifest(bundle)
        if manifest.version == self.aliases.installed:
            return False
        try:
            champion = self.manifest("champion")
        except (RegistryError, BundleError):  # there is none, or a damaged one
            return True
        check_same_task(manifest, champion)
        return True

    def install(self, version: str) -> None:
        """A configured bundle becomes champion; the champion, if it is another one, previous."""
        aliases = replace(self.aliases, installed=version)
        if version != self.aliases.champion:
            aliases = Aliases(version, previous=self.aliases.champion, installed=version)
        self._move(aliases, "installed", version, "the configured bundle")

    def begin_probation(self, version: str, reason: str) -> None:
        """The candidate goes live."""
        aliases = replace(self.aliases, candidate=version)
        self._move(aliases, "swapped in", version, reason)

    def promote(self, version: str, reason: str, *, beside: str | None = None) -> None:
        """`version` becomes champion; the champion becomes previous.

        Args:
            beside: a version that goes on answering beside it.
        """
        self.path(version)
        if version == self.aliases.champion:
            aliases = replace(self.aliases, candidate=None, beside=beside)
            self._move(aliases, "kept", version, reason)
            return
        aliases = self._succeeded_by(version, beside)
        self._move(aliases, "promoted", version, reason)

    def end_probation(self, reason: str, *, interrupted: bool = False) -> None:
        """The candidate is taken back; the champion stays what it is.

        Args:
            interrupted: nothing was found against it; the service ended too soon.
        """
        candidate = self.aliases.candidate
        if candidate is not None:
            aliases = replace(self.aliases, candidate=None)
            action = "interrupted" if interrupted else "rolled back"
            self._move(aliases, action, candidate, reason)

    def proven(self) -> list[str]:
        """Versions that were champion and never taken back since, the latest to prove itself first;
        the first champion of all is the last.
        """
        standing: dict[str, bool] = {}
        for entry in self.history():
            version, action = str(entry.get("version")), entry.get("action")
            if action in _PROVES or action == "rolled back":
                standing.pop(version, None)
                standing[version] = action in _PROVES
        held = set(self.ids())
        return [v for v, proven in reversed(standing.items()) if proven and v in held]

    def restore_previous(self, reason: str) -> str:
        """Champion and previous change places; returns the new champion. RegistryError if there is
        none.
        """
        champion, previous = self.aliases.champion, self.aliases.previous
        if previous is None or champion is None:
            raise RegistryError(
                "there is no previous version to go back to",
                field="previous",
                remedy="name one: `edgetuner models promote VERSION`",
            )
        self._move(self._succeeded_by(previous), "rolled back", champion, reason)
        return previous

    def prune(self) -> list[str]:
        """Deletes what is beyond `keep` and no alias names, and returns the ids: first versions
        that proved nothing, oldest first, then those that proved themselves longest ago. The last
        two that were installed stay: everything else can be trained again.
        """
        proven = self.proven()
        named = {*asdict(self.aliases).values(), *self._installed()[-2:]}
        spare = [version for version in self.ids() if version not in named]
        spare.sort(key=lambda v: -proven.index(v) if v in proven else -len(self.ids()))
        gone = spare[: max(0, len(spare) - self._keep)]
        for version in gone:
            # Out of sight at once: a half-deleted version must never look like a whole one.
            folder = self._versions / f".{version}.gone"
            with contextlib.suppress(OSError):
                (self._versions / version).rename(folder)
            shutil.rmtree(folder, ignore_errors=True)
        self._forget()
        return gone

    def sweep(self) -> None:
        """Removes what a crash left half done. Only for whoever moves the versions."""
        for folder in self._versions.glob(".*"):
            shutil.rmtree(folder, ignore_errors=True)

    def history(self) -> list[dict[str, Any]]:
        """Every action so far: `t` (Unix seconds), `action`, `version`, `reason`."""
        try:
            lines = self._history_file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            with contextlib.suppress(ValueError):  # torn by a loss of power
                entries.append(json.loads(line))
        return entries

    def _forget(self) -> None:
        """Leaves out of a long history what is of versions that are gone, but for the newest."""
        history, held = self.history(), set(self.ids())
        if len(history) <= _HISTORY:
            return
        installed = [entry for entry in history if entry.get("action") == "installed"]
        kept = [
            entry
            for place, entry in enumerate(history)
            if entry in installed[-2:]
            or place >= len(history) - _HISTORY // 2
            or entry.get("version") in held
        ]
        staging = self._history_file.with_suffix(".incoming")
        with contextlib.suppress(OSError):  # it can be tried again
            staging.write_text("".join("\n" + json.dumps(entry) for entry in kept))
            _sync(staging)
            staging.replace(self._history_file)

    def _installed(self) -> list[str]:
        """Configured bundles that were installed, in their order; the last time of each counts."""
        taken = [str(e.get("version")) for e in self.history() if e.get("action") == "installed"]
        return list(dict.fromkeys(reversed(taken)))[::-1]

    def _origin(self) -> str | None:
        """The bundle that was installed last, by the history; without one, that which the champion
        goes back to.
        """
        installed, version = self._installed(), self.aliases.champion
        if installed or version is None:
            return installed[-1] if installed else None
        with contextlib.suppress(RegistryError, BundleError):
            while parent := self.manifest(version).parent:
                version = parent
        return version

    def _succeeded_by(self, version: str, beside: str | None = None) -> Aliases:
        """The aliases with another champion, and none on probation."""
        return replace(
            self.aliases,
            champion=version,
            candidate=None,
            previous=self.aliases.champion,
            beside=beside,
        )

    def _move(self, aliases: Aliases, action: str, version: str, reason: str) -> None:
        staging = self._aliases_file.with_suffix(".incoming")
        entry = {"t": round(time.time(), 3), "action": action, "version": version, "reason": reason}
        try:
            with staging.open("w") as file:
                json.dump(asdict(aliases), file)
                file.flush()
                os.fsync(file.fileno())
            # Before the alias: where this fails, nothing has moved. A line begins with its own
            # break, since the one before may be torn.
            with self._history_file.open("a") as file:
                file.write("\n" + json.dumps(entry))
            staging.replace(self._aliases_file)
            _sync(self._aliases_file.parent)
        except OSError as error:
            raise StoreError(
                "cannot move an alias",
                field=str(self._aliases_file),
                value=error.strerror,
                remedy="free some disk space",
            ) from None
        self.aliases = aliases

    def _read_aliases(self) -> Aliases:
        try:
            raw = json.loads(self._aliases_file.read_text())
            return Aliases(**raw)
        except FileNotFoundError:
            return Aliases()
        except (ValueError, TypeError) as error:
            raise RegistryError(
                "cannot be understood",
                field=str(self._aliases_file),
                value=str(error),
                remedy="restore it, or remove it to begin again with the configured bundle",
            ) from None


_HISTORY = 2000  # entries; of more only the newer half, and what is of versions that are there
_PROVES = ("installed", "promoted", "kept")
_ALIASES = ("champion", "candidate", "previous", "beside", "installed")


def check_same_task(found: Manifest, wanted: Manifest) -> None:
    """RegistryError if one version cannot take the place of another."""
    for name in ("classes", "channels", "length", "hz"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        if ours != theirs:
            raise RegistryError(
                "another task than that of the live model",
                field=f"{found.version}: {name}",
                value=ours,
                remedy=f"choose a version with {theirs}, or give it a state_dir of its own",
            )


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_tree(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        _sync(path)
