"""Work that overlaps: items made ahead of their use, and results that many workers give in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from queue import Full, Queue
from typing import Any, TypeVar

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


class _Is(Enum):
    GROUP = auto()
    ITEM = auto()
    ERROR = auto()
    END = auto()  # of a group
    FAILED = auto()  # the groups themselves
    DONE = auto()


class _Stopped(Exception):
    pass


def ahead(groups: Iterable[tuple[K, Iterable[T]]], limit: int = 8) -> Iterator[tuple[K, Iterator[T]]]:
    """Groups of items, made by a background thread up to ``limit`` items before they are asked for.

    An error within a group is raised where its next item would come, and the next group is not touched
    by it. What the caller leaves of a group is passed over. With recordings as groups and pieces as
    items, memory stays constant over any number and length of them.

    >>> groups = [("a", iter([1, 2])), ("b", map(int, ["3", "x"])), ("c", iter([4]))]
    >>> for name, items in ahead(groups):
    ...     try:
    ...         print(name, list(items))
    ...     except ValueError:
    ...         print(name, "is bad")
    a [1, 2]
    b is bad
    c [4]
    """
    queue: Queue[tuple[_Is, Any]] = Queue(limit)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(groups, queue, stop), daemon=True)
    thread.start()
    open_group = False

    def items() -> Iterator[T]:
        nonlocal open_group
        while open_group:
            kind, value = queue.get()
            open_group = kind is _Is.ITEM
            if kind is _Is.ERROR:
                raise value
            if open_group:
                yield value

    try:
        while True:
            kind, value = queue.get()
            if kind is _Is.FAILED:
                raise value
            if kind is _Is.DONE:
                return
            open_group = True
            yield value, items()
            while open_group:
                open_group = queue.get()[0] is _Is.ITEM
    finally:
        stop.set()
        thread.join()


def _fill(groups: Iterable[tuple[Any, Iterable[Any]]], queue: "Queue[tuple[_Is, Any]]", stop: threading.Event) -> None:
    def put(kind: _Is, value: Any = None) -> None:
        while not stop.is_set():
            try:
                return queue.put((kind, value), timeout=0.1)
            except Full:
                continue
        raise _Stopped

    try:
        for key, items in groups:
            put(_Is.GROUP, key)
            try:
                for item in items:
                    put(_Is.ITEM, item)
            except _Stopped:
                raise
            except Exception as error:
                put(_Is.ERROR, error)
            else:
                put(_Is.END)
        put(_Is.DONE)
    except _Stopped:
        pass
    except BaseException as error:
        put(_Is.FAILED, error)


def in_order(start: Callable[[T], Callable[[], R]], items: Iterable[T], window: int) -> Iterator[R]:
    """Results in the order of ``items``, at most ``window`` of them under way: a corpus does not fit in memory.

    ``start`` begins the work on an item and gives a function that waits for its result.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(in_order(lambda x: pool.submit(pow, x, 2).result, range(5), window=3))
    [0, 1, 4, 9, 16]
    """
    under_way: deque[Callable[[], R]] = deque()
    for item in items:
        under_way.append(start(item))
        if len(under_way) >= window:
            yield under_way.popleft()()
    while under_way:
        yield under_way.popleft()()
