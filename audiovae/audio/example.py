"""A few seconds of two voices made of tones, for the examples in the documentation and for tests."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from audiovae.audio.io import write_audio
from audiovae.audio.prepare import prepare_corpus


def example_recordings(count: int = 20) -> Path:
    """A new temporary folder anna/, ben/ of ``count`` recordings each, 0.4 to 0.8 s at 22,050 Hz.

    >>> len(list(example_recordings(count=3).glob("*/*.wav")))
    6
    """
    folder = Path(tempfile.mkdtemp())
    generator = np.random.default_rng(0)
    for name, pitch in (("anna", 220.0), ("ben", 110.0)):
        for i in range(count):
            t = np.arange(generator.integers(8820, 17_640)) / 22_050
            k = np.arange(1, 9)[:, None]
            tones = (np.sin(2 * np.pi * pitch * k * t + generator.uniform(0, 6, (8, 1))) / k).sum(axis=0)
            write_audio(folder / name / f"{i:02d}.wav", (0.2 * tones).astype(np.float32), 22_050)
    return folder


@cache
def example_corpus() -> Path:
    """A temporary corpus folder of :func:`example_recordings`; the same at every call.

    >>> (example_corpus() / "audio.i16").exists()
    True
    """
    folder = Path(tempfile.mkdtemp()) / "corpus"
    prepare_corpus(example_recordings(), folder)
    return folder
