"""Writes `configs/default.yaml`: every key with its default and its meaning, from the code itself.

python tools/default_config.py > configs/default.yaml
"""

from __future__ import annotations

import textwrap
from typing import Any

import yaml

from edgetuner.config import FIXED, Config, sections

_HEAD = """\
# Every key of edgetuner, with its default. A file needs only what it changes; unknown keys are
# refused.
#
#   edgetuner validate-config FILE     checks a file and shows it in full
#   edgetuner run -c FILE              runs the service with it
#
# Relative paths are taken from the folder of the file. Durations are seconds, or 90s, 15min, 6h,
# 7d.
"""


def render() -> str:
    """The whole file."""
    blocks = [_HEAD + "#\n" + _comment(_reload(), "")]
    config = Config()
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if hasattr(type(value), "model_fields"):
            inner = [
                _entry(key, spec.description or "", getattr(value, key), "  ")
                for key, spec in type(value).model_fields.items()
            ]
            doc = " ".join((type(value).__doc__ or "").split())
            blocks.append(_comment(doc, "") + f"{name}:\n" + "".join(inner))
        else:
            blocks.append(_entry(name, field.description or "", value, ""))
    return "\n".join(blocks)


def _reload() -> str:
    """What SIGHUP takes over, from what it does not."""
    live = [name for name in sections() if name not in FIXED]
    but = [name for name in FIXED if "." in name]
    return (
        f"SIGHUP takes over changes in the sections {', '.join(live[:-1])} and {live[-1]}, apart "
        f"from {', '.join(but[:-1])} and {but[-1]}; these and the other sections need a restart."
    )


def _entry(name: str, description: str, value: Any, indent: str) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    if not isinstance(plain, int | float | str | list | None):
        plain = str(plain)
    text = yaml.safe_dump(plain, default_flow_style=True, width=200).removesuffix("...\n").strip()
    return _comment(description, indent) + f"{indent}{name}: {text}\n"


def _comment(text: str, indent: str) -> str:
    lines = textwrap.wrap(text, 98 - len(indent))
    return "".join(f"{indent}# {line}\n" for line in lines)


if __name__ == "__main__":
    print(render(), end="")
