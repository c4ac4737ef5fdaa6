"""One stream's windows and labels that the service has not answered yet, in their order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from edgetuner.protocol import LabelHeader, WindowHeader

Kind: TypeAlias = Literal["window", "label"]

_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0


@dataclass(slots=True, eq=False)
class Item:
    """A message that is kept until it is answered."""

    header: WindowHeader | LabelHeader
    payload: bytes | None = None
    tries: int = 0


@dataclass(slots=True, eq=False)
class Sent:
    """A message under way."""

    item: Item
    at: float
    gap: bool


@dataclass(slots=True, eq=False)
class Lane:
    """Go-back-N over one stream: `items[:sent]` have left and wait for an answer."""

    next_seq: int | None = None  # of the next window published; None where none ever was
    expected: int | None = None  # what the service awaits after all that has left; None: takes any
    known: bool = False  # whether the service holds anything of this stream
    items: deque[Item] = field(default_factory=deque)
    sent: int = 0
    not_before: float = 0.0
    _backoff_s: float = _FIRST_BACKOFF_S

    def send(self, now: float) -> Sent | None:
        """Takes the next message that may leave now, if there is one."""
        if self.sent == len(self.items) or now < self.not_before:
            return None
        item = self.items[self.sent]
        sent = Sent(item, now, gap=False)
        if isinstance(item.header, WindowHeader):
            seq = item.header.seq
            sent.gap = self.expected is not None and seq > self.expected
            if (sent.gap or not self.known) and self._windows_under_way():
                # The service takes such a window whatever came before, so that if an earlier one
                # were lost with its connection, it would be too late for that one: it goes alone.
                return None
            self.expected = max(self.expected or 0, seq + 1)
        self.sent += 1
        item.tries += 1
        return sent

    def resume(self, last: int | None) -> int:
        """Begins again after a welcome.

        Args:
            last: the last sequence number that the service holds, or None.

        Returns:
            How many windows were dropped because the service holds them.
        """
        before = len(self.items)
        if last is not None:
            self.items = deque(i for i in self.items if not _is_window(i) or i.header.seq > last)
            self.next_seq = last + 1 if self.next_seq is None else self.next_seq
        self.known = last is not None
        self.expected = None if last is None else last + 1
        self.not_before = 0.0
        self.sent = 0
        return before - len(self.items)

    def find(self, of: Kind, seq: int) -> Item | None:
        """The item kept under this name."""
        wanted = of == "window"
        return next(
            (i for i in self.items if i.header.seq == seq and _is_window(i) is wanted), None
        )

    def drop(self, item: Item) -> None:
        """Forgets an item that was answered."""
        index = self.items.index(item)
        del self.items[index]
        self.sent -= index < self.sent

    def accepted(self) -> None:
        """Notes that the service holds something of this stream and has room."""
        self.known = True
        self._backoff_s = _FIRST_BACKOFF_S

    def go_on_from(self, expected: int) -> None:
        """Goes back to the window that the service awaits."""
        self.known = True
        self.expected = expected
        for index, item in enumerate(self.items):
            if _is_window(item) and item.header.seq >= expected:
                self.sent = min(self.sent, index)
                return

    def try_later(self, item: Item, now: float) -> None:
        """Goes back to a message for which there was no room, and waits twice as long each time."""
        self.not_before = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, _LONGEST_BACKOFF_S)
        self.sent = min(self.sent, self.items.index(item))

    def has_sent(self, item: Item) -> bool:
        """Whether it is among those that have left since the lane last went back."""
        return self.items.index(item) < self.sent

    def _windows_under_way(self) -> bool:
        return any(_is_window(self.items[n]) for n in range(self.sent))


def _is_window(item: Item) -> bool:
    return isinstance(item.header, WindowHeader)
