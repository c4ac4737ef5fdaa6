"""Writes docs/schema/*.json from the protocol. Run: python tools/make_schema.py"""

from __future__ import annotations

import json
from pathlib import Path

from edgetuner.protocol import schemas

FOLDER = Path(__file__).parents[1] / "docs" / "schema"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(schema, indent=2) + "\n")
        print(FOLDER / f"{name}.json")


if __name__ == "__main__":
    main()
