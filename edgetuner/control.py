"""The control socket: operators' requests, one reply each, errors as data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from edgetuner import protocol
from edgetuner.errors import EdgetunerError, ProtocolError, UsageError, unexpected
from edgetuner.protocol import REQUEST, Reply, Request
from edgetuner.transport import AsyncSocket, Received, receive_batch, send_now


class Nothing(BaseModel):
    """No parameters."""

    model_config = ConfigDict(extra="forbid")


class Why(Nothing):
    """A reason, for the history."""

    reason: str = "asked by an operator"


class Demand(Why):
    """An adaptation, and whether its labels are beyond doubt."""

    trust_labels: bool = False


class Which(Why):
    """A model version, by its id or by an alias."""

    version: str


Method = tuple[type[BaseModel], Callable[[Any], Awaitable[dict[str, Any]]]]


class Control:
    """Serves a ROUTER socket.

    Args:
        socket: bound.
        methods: name -> (model of its parameters, coroutine that takes them and returns the
            result).
    """

    def __init__(self, socket: AsyncSocket, methods: dict[str, Method]) -> None:
        self._socket = socket
        self._methods = methods

    async def serve(self) -> None:
        """Answers requests, one after the other, until cancelled."""
        while True:
            for received in await receive_batch(self._socket, 16):
                reply = await self._answer(received)
                send_now(self._socket, [received.frames[0], *protocol.encode(reply)])

    async def _answer(self, received: Received) -> Reply:
        name = None
        try:
            request, _ = protocol.decode(received.frames[1:], REQUEST)
            name = request.id
            return Reply(id=name, result=await self._call(request))
        except EdgetunerError as error:
            return Reply(id=name, error=error.to_wire())
        except Exception as error:  # one call, and not the service
            return Reply(id=name, error=unexpected(error).to_wire())

    async def _call(self, request: Request) -> dict[str, Any]:
        if request.method not in self._methods:
            raise ProtocolError(
                "no such method",
                field="method",
                value=request.method,
                remedy=f"call one of {', '.join(sorted(self._methods))}",
            )
        model, work = self._methods[request.method]
        try:
            params = model.model_validate(request.params)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UsageError(
                first["msg"][0].lower() + first["msg"][1:],
                field="params." + ".".join(str(part) for part in first["loc"]),
                value=first["input"],
                remedy="see docs/protocol.md",
            ) from None
        return await work(params)
