"""Packages that only some measures want, imported when they are first used."""

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from importlib.util import find_spec
from types import ModuleType

from audiovae.errors import ExtraError


def extra(name: str, group: str) -> ModuleType:
    """The module ``name``, which comes with ``pip install 'audiovae[group]'``; what it warns of on import is its own.

    Raises ExtraError, with that command, where it cannot be imported.

    >>> extra("no_such_judge", "judges")
    Traceback (most recent call last):
    audiovae.errors.ExtraError: no_such_judge cannot be imported (...): pip install 'audiovae[judges]'.
    """
    try:
        with warnings.catch_warnings(), _package_resources():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise ExtraError(f"{name} cannot be imported ({error}): pip install 'audiovae[{group}]'.") from None


@contextmanager
def _package_resources() -> Iterator[None]:
    """While pyworld or webrtcvad is imported: each asks a part that setuptools 82 no longer has for its own version."""
    if find_spec("pkg_resources"):
        yield
        return
    stand_in = ModuleType("pkg_resources")
    stand_in.get_distribution = distribution  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
