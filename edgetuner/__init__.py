"""Adapts a sensor CNN on the device where it runs: notices drift, fine-tunes, swaps in.

`edgetuner.Client` and `edgetuner.AsyncClient` are loaded on first use, so that importing the
package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetuner.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from edgetuner import client

        return getattr(client, name)
    raise AttributeError(f"module 'edgetuner' has no attribute {name!r}")
