"""Shared by all tests and doctests: one seed, so that a failure repeats; a small corpus of real layout.

One thread each: the models are small, and a second thread would only wait for the first.
"""

import builtins
import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start

from pathlib import Path

import pytest
import torch

from audiovae.audio.example import example_corpus


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace["torch"] = torch
    yield
    vars(builtins).pop("_", None)  # the last value an example showed: tyro wants all that is there to have a hash


@pytest.fixture(scope="session", autouse=True)
def _temporary(tmp_path_factory):
    """What examples leave behind lies where pytest clears up."""
    tempfile.tempdir = os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("temporary"))


@pytest.fixture(scope="session")
def tiny_corpus() -> Path:
    """A prepared corpus of two made-up speakers, twenty short recordings."""
    return Path(example_corpus())
