"""Model versions as text: the list of them, and a page on one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from edgetuner.cli.output import cell, pairs, size, spoken, table
from edgetuner.log import readable

Data = dict[str, Any]


def version_table(versions: Sequence[Data]) -> str:
    """A line a version, newest first."""
    metrics = list(dict.fromkeys(name for row in versions for name in row.get("metrics") or {}))
    rows = [
        [
            row.get("version"),
            row.get("alias"),
            row.get("rung"),
            *(_figure(row, name) for name in metrics),
            _minute(row.get("created")),
            row.get("parent"),
            row.get("last"),
        ]
        for row in versions
    ]
    return table(
        rows, ("version", "is", "rung", *map(spoken, metrics), "made (UTC)", "from", "last was")
    )


def version_page(manifest: Data) -> str:
    """What a bundle, or a version of the registry, takes, tells and went through."""
    rows: list[tuple[str, str | None]] = [
        ("version", cell(manifest.get("version"))),
        ("made", f"{_minute(manifest.get('created'))} UTC"),
        ("takes", _input(manifest)),
        ("tells", _listed("classes", manifest.get("classes") or ())),
        ("network", _network(manifest.get("backbone") or {})),
        ("measured", _measured(manifest.get("metrics") or {})),
        ("trained", _facts(manifest.get("training"))),
        ("adapted", _adapted(manifest)),
        ("files", _files(manifest.get("files") or {})),
    ]
    rows += [("history" if not i else "", line) for i, line in enumerate(_history(manifest))]
    return pairs(rows)


def _input(manifest: Data) -> str:
    length, hz = manifest.get("length"), manifest.get("hz")
    seconds = f" ({length / hz:.3g} s)" if length and hz else ""
    return (
        f"{_listed('channels', manifest.get('channels') or ())}; "
        f"windows of {cell(length)} samples at {cell(hz)} Hz{seconds}"
    )


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{len(names)} {what}: {', '.join(names)}"


def _network(backbone: Data) -> str:
    name = backbone.get("name") or f"your own {backbone.get('factory')}"
    arguments = readable(backbone.get("args") or {})
    return f"{name}({arguments}), last layer {cell(backbone.get('head'))}"


def _measured(metrics: Data) -> str | None:
    return ", ".join(f"{spoken(name)} {value:.3f}" for name, value in metrics.items()) or None


def _adapted(manifest: Data) -> str | None:
    if not manifest.get("parent"):
        return None
    facts = dict(manifest.get("adaptation") or {})
    rungs = [str(rung.get("rung")) for rung in facts.pop("rungs", None) or []]
    climbed = {"climbed": " > ".join(rungs)} if rungs else {}
    return f"from {manifest['parent']}: {_facts(facts | climbed) or '-'}"


def _facts(about: Data | None) -> str | None:
    return readable(about) if about else None


def _files(files: dict[str, Data]) -> str | None:
    each = (f"{name} {size(entry.get('bytes'))}" for name, entry in files.items())
    return ", ".join(each) or None


def _history(manifest: Data) -> Iterable[str]:
    for entry in manifest.get("history") or []:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry["t"]))
        yield f"{when}  {entry['action']}: {entry['reason']}"


def _figure(row: Data, name: str) -> str | None:
    value = (row.get("metrics") or {}).get(name)
    return None if value is None else f"{value:.3f}"


def _minute(created: str | None) -> str:
    return "-" if not created else created[:16].replace("T", " ")
