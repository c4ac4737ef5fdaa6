"""Clients of the service: of its sensors' socket, and of its operators' sockets.

Each is loaded on first use: an operator's call does not wait for numpy, nor a sensor for asyncio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from edgetuner.client.aio import AsyncClient
    from edgetuner.client.operator import Operator, subscribe
    from edgetuner.client.plain import PlainPublisher
    from edgetuner.client.sync import Client

__all__ = ["AsyncClient", "Client", "Operator", "PlainPublisher", "subscribe"]

_HOMES: Final = {
    "AsyncClient": "aio",
    "Client": "sync",
    "Operator": "operator",
    "PlainPublisher": "plain",
    "subscribe": "operator",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
