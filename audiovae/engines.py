"""Where a corpus is encoded: in this process, in several of this machine, or on a Ray cluster.

Every engine takes a function from items to results and gives the results in the order of the items.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import takewhile
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

import torch

from audiovae.errors import EngineError, ExtraError
from audiovae.parallel import in_order

T = TypeVar("T")
R = TypeVar("R")

BATCH = 16  # items that travel together at most: enough to be worth the way, few enough to be lost
RETRIES = 5  # of a batch whose Ray worker died

_interrupted = threading.Event()


def run_local(function: Callable[[Iterable[T]], Iterable[R]], items: Sequence[T], workers: int = 1) -> Iterator[R]:
    """In this process, or in ``workers`` of one thread each.

    Raises EngineError when a worker dies, as for want of memory.

    >>> list(run_local(sorted, [3, 1, 2]))
    [1, 2, 3]
    """
    if workers == 1:
        yield from function(items)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker)  # a fork would copy torch's threads
    try:
        for results in in_order(lambda batch: pool.submit(_listed, function, batch).result, _batches(items, workers),
                                4 * workers):
            yield from results
    except BrokenProcessPool:
        raise EngineError("a worker process died, perhaps for want of memory: run the command again, and it goes "
                          "on; with fewer --workers if it dies again.") from None
    finally:
        pool.shutdown(cancel_futures=True)


def run_ray(function: Callable[[Iterable[T]], Iterable[R]], items: Sequence[T], workers: int | None = None
            ) -> Iterator[R]:
    """As Ray tasks of one CPU each, ``workers`` at a time (default: all CPUs); a batch whose worker dies is redone.

    The cluster is the one this process is connected to, that of ``RAY_ADDRESS``, or else a new one of this
    machine. Its nodes need audiovae, the model, and the recordings and outputs under the same paths.

    Raises ExtraError without ray, EngineError when a batch has failed too often or there is no such cluster.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ExtraError("--engine ray wants ray: pip install 'audiovae[ray]'.") from None
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task: Any = ray.remote(num_cpus=1, max_retries=RETRIES)(_listed_in_ray)
        start = lambda batch: partial(ray.get, task.remote(function, batch))  # noqa: E731
        for results in in_order(start, _batches(items, workers), 2 * workers):
            yield from results
    except (ray.exceptions.RayError, ConnectionError) as error:
        line = " ".join(str(error).split())[:200]
        raise EngineError(f"Ray gave up ({line}): run the command again, and it goes on.") from None
    finally:
        if ours:
            ray.shutdown()


def _batches(items: Sequence[T], workers: int) -> Iterator[Sequence[T]]:
    """Few items in each while there are few in all, so that no worker has much left when the others are done."""
    size = min(BATCH, max(1, len(items) // (8 * workers)))
    return (items[start:start + size] for start in range(0, len(items), size))


def _listed(function: Callable[[Iterable[T]], Iterable[R]], batch: Sequence[T]) -> list[R]:
    return list(takewhile(lambda _: not _interrupted.is_set(), function(batch)))


def _listed_in_ray(function: Callable[[Iterable[T]], Iterable[R]], batch: Sequence[T]) -> list[R]:
    torch.set_num_threads(1)
    return _listed(function, batch)


def _begin_worker() -> None:
    """One thread of arithmetic; on Ctrl-C an end after the item at hand; and one when the parent is killed."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, lambda *_: _interrupted.set())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Else a worker would wait for ever, since a parent that is killed tells its children nothing."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
