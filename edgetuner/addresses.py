"""Where the service's sockets are, read from its configuration without building the rest of it.

Apart from `config`, because `edgetuner status` needs an address and nothing else, and answers in
half the time without the models.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import yaml

from edgetuner.errors import ConfigError

# The defaults of `sockets` in the configuration; `plain` is not bound.
ADDRESSES: Final = {
    "ingest": "ipc:///run/edgetuner/ingest",
    "status": "ipc:///run/edgetuner/status",
    "control": "ipc:///run/edgetuner/control",
}
SOCKETS: Final = (*ADDRESSES, "plain")
REMEDY: Final = "write ipc:///PATH, or tcp://HOST:PORT with a port up to 65535"


def address_of(socket: str, path: Path) -> str | None:
    """The address of a socket by the configuration at `path`; None if it is not bound.

    Raises:
        ConfigError: unreadable, not YAML, or `sockets` is not what it has to be.
    """
    sockets = read_yaml(path).get("sockets") or {}
    if not isinstance(sockets, dict) or not sockets.keys() <= set(SOCKETS):
        raise ConfigError(
            "not a table of addresses",
            field="sockets",
            value=sockets,
            remedy=f"it may have {', '.join(SOCKETS)}",
        )
    found = sockets.get(socket, ADDRESSES.get(socket))
    if not isinstance(found, str | None):
        raise ConfigError(
            "not an address",
            field=f"sockets.{socket}",
            value=found,
            remedy="write ipc://PATH or tcp://HOST:PORT",
        )
    return None if found is None else anchored_address(found, path.resolve().parent)


def anchored_address(address: str, base: Path) -> str:
    """The address with a relative ipc path taken from `base`."""
    if address.startswith("ipc://") and address[6:7] not in ("/", "@"):
        return f"ipc://{os.path.normpath(base / address[6:])}"
    return address


def is_usable(address: str) -> bool:
    """Whether a socket may be bound to it: ipc, TCP with a port or `*`, or inproc.

    ZeroMQ would take a port beyond 65535 modulo 65536, and an abstract ipc name has no permissions.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or not rest:
        return False
    if scheme != "tcp":
        return scheme == "inproc" or (scheme == "ipc" and rest[0] not in "@*")
    from urllib.parse import urlsplit  # not for whoever only needs an address

    host, _, port = rest.rpartition(":")
    end = f"{host}:{0 if port == '*' else port}"
    try:
        parts = urlsplit(f"//{end}")
        # No name to log in with, nor anything behind the port, which ZeroMQ would leave out.
        plain = parts.netloc == end and parts.username is None
        return plain and bool(parts.hostname) and parts.port is not None
    except ValueError:
        return False


def is_local(address: str) -> bool:
    """Whether only this machine can reach the address: ipc, inproc, or TCP to itself."""
    import ipaddress
    from urllib.parse import urlsplit

    scheme, _, rest = address.partition("://")
    if scheme in ("ipc", "inproc"):
        return True
    try:
        host = urlsplit(f"//{rest}").hostname or ""
        return scheme == "tcp" and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name or an interface may lead anywhere


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration file as it stands.

    Raises:
        ConfigError: unreadable, or not YAML with a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader), path)
        raw = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(
            "cannot be read",
            field=str(path),
            value=error.strerror,
            remedy="name a readable file by -c, or in EDGETUNER_CONFIG",
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a 13th month
        raise ConfigError(
            "not valid YAML",
            field=str(path),
            value=" ".join(str(error).split()),
            remedy="correct that line",
        ) from None
    if not isinstance(raw, dict | None):
        raise ConfigError(
            "must be a mapping",
            field=str(path),
            value=type(raw).__name__,
            remedy="write `key: value`",
        )
    return raw or {}


def _refuse_twice(node: yaml.Node | None, path: Path, known: set[int] | None = None) -> None:
    """YAML wants keys to be different, and its reader takes the last one without a word.

    Args:
        known: nodes that were looked at; an alias leads to one again, maybe to its own parent.
    """
    known = set() if known is None else known
    if id(node) in known:
        return
    known.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(item, path, known)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise ConfigError(
                "a key is given twice",
                field=f"{path}: line {key.start_mark.line + 1}",
                value=key.value,
                remedy="keep one of them",
            )
        seen.add(str(key.value))
        _refuse_twice(value, path, known)
