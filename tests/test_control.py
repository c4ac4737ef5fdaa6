from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgetuner.client import Operator
from edgetuner.control import Control, Method, Nothing, Which
from edgetuner.errors import BusyError, EdgetunerError, ProtocolError, UsageError
from edgetuner.transport import ROUTER, Sockets


async def echo(params: Which) -> dict[str, Any]:
    return {"version": params.version, "reason": params.reason}


async def refuse(params: Nothing) -> dict[str, Any]:
    raise BusyError("not now", field="adapt", value=3, remedy="wait", details={"queue": 7})


async def fail(_: Nothing) -> dict[str, Any]:
    raise ZeroDivisionError("of our own")


METHODS: dict[str, Method] = {
    "echo": (Which, echo),
    "refuse": (Nothing, refuse),
    "fail": (Nothing, fail),
}


def call(ipc_dir: Path, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """Results of calls to one server, one after the other, errors as they are raised."""
    address = f"ipc://{ipc_dir / 'control'}"

    def ask() -> list[Any]:
        answers: list[Any] = []
        with Operator(address) as operator:
            for method, params in calls:
                try:
                    answers.append(operator.call(method, params))
                except EdgetunerError as error:
                    answers.append(error)
        return answers

    async def scene() -> list[Any]:
        sockets = Sockets()
        await sockets.start()
        control = Control(sockets.bind(ROUTER, address, field="sockets.control"), METHODS)
        task = asyncio.create_task(control.serve())
        answers = await asyncio.to_thread(ask)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sockets.close()
        return answers

    return asyncio.run(scene())


def test_a_method_gets_its_parameters_and_its_result_comes_back(ipc_dir: Path) -> None:
    (answer,) = call(ipc_dir, ("echo", {"version": "v1"}))
    assert answer == {"version": "v1", "reason": "asked by an operator"}


def test_an_error_of_the_method_crosses_the_wire_whole(ipc_dir: Path) -> None:
    error, after = call(ipc_dir, ("refuse", {}), ("echo", {"version": "v1", "reason": "r"}))
    assert type(error) is BusyError
    assert (error.field, str(error.value), error.remedy) == ("adapt", "3", "wait")
    assert error.details == {"queue": 7}
    assert after == {"version": "v1", "reason": "r"}


def test_a_fault_of_our_own_costs_one_call(ipc_dir: Path) -> None:
    error, after = call(ipc_dir, ("fail", {}), ("echo", {"version": "v1"}))
    assert type(error) is EdgetunerError and error.code == "internal"
    assert "ZeroDivisionError: of our own" in str(error.value)
    assert "test_control.py:" in str(error.field)
    assert after["version"] == "v1"


@pytest.mark.parametrize(
    ("method", "params", "kind", "field"),
    [
        ("sing", {}, ProtocolError, "method"),
        ("echo", {}, UsageError, "params.version"),
        ("echo", {"version": 1}, UsageError, "params.version"),
        ("echo", {"version": "v", "size": 1}, UsageError, "params.size"),
    ],
)
def test_what_is_wrong_is_named(
    ipc_dir: Path, method: str, params: dict[str, Any], kind: type[EdgetunerError], field: str
) -> None:
    error, after = call(ipc_dir, (method, params), ("echo", {"version": "v1"}))
    assert type(error) is kind and error.field == field and error.remedy
    assert after["version"] == "v1"
