"""Ctrl-C taken for a wish: what is being done comes to an end of its own."""

import signal
from types import FrameType
from typing import Self


class Interrupt:
    """Within, the first of ``signals`` sets ``caught`` instead of raising, so that a step can finish.

    By default Ctrl-C and a polite kill. A second one raises KeyboardInterrupt as usual. Only the main thread may enter
    it.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self.signals, self.caught = signals, False

    def __enter__(self) -> Self:
        self.before = {s: signal.signal(s, self._catch) for s in self.signals}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = True
