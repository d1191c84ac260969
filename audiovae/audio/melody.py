"""The prosody of a whole corpus, found once and kept beside its samples."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from audiovae.audio.corpus import SAMPLES, Corpus
from audiovae.audio.pitch import VERSION, prosody
from audiovae.errors import CorpusError
from audiovae.files import atomic_file
from audiovae.parallel import in_order

TOGETHER = 20  # utterances to a task


def corpus_pitch(corpus: Corpus, hop: int) -> NDArray[np.float32]:
    """Pitch of every frame of every utterance, in the order of ``corpus.all``: (N,) Hz, negative where filled in.

    An utterance of ``length`` samples has ceil(length / hop) frames. Found by all cores the first time, with a
    progress bar, and kept as ``pitch-HOP-vN.npy`` in the corpus' folder.

    >>> from audiovae.audio.example import example_corpus
    >>> corpus = Corpus.open(example_corpus())
    >>> len(corpus_pitch(corpus, hop=160)) == sum(-(-u.length // 160) for u in corpus.all)
    True
    """
    path = corpus.folder / f"pitch-{hop}-v{VERSION}.npy"
    frames = sum(-(-u.length // hop) for u in corpus.all)
    if path.exists():
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CorpusError(f"corpus {corpus.folder}: {path.name} cannot be read ({error}): delete it.") from None
        if found.shape != (frames,) or path.stat().st_mtime < (corpus.folder / SAMPLES).stat().st_mtime:
            raise CorpusError(f"corpus {corpus.folder}: {path.name} is of other recordings: delete it.")
        return found
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(list(_pitches(corpus, hop))))
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _pitches(corpus: Corpus, hop: int) -> Iterator[NDArray[np.float32]]:
    """Pitch of some utterances after the other; of a few they are found right here."""
    count, workers = len(corpus.all), os.cpu_count() or 1
    firsts = range(0, count, TOGETHER)
    with tqdm(total=count, unit="utterance", desc="pitch", disable=None) as bar:
        if workers == 1 or len(firsts) < 2 * workers:
            parts = (_pitch(corpus, first, hop) for first in firsts)
            yield from _counted(parts, bar)
            return
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            yield from _counted(in_order(lambda first: pool.submit(_pitch, corpus, first, hop).result, firsts,
                                         window=2 * workers), bar)


def _counted(parts: Iterable[NDArray[np.float32]], bar: tqdm) -> Iterator[NDArray[np.float32]]:
    for part in parts:
        yield part
        bar.update(min(TOGETHER, bar.total - bar.n))


def _pitch(corpus: Corpus, first: int, hop: int) -> NDArray[np.float32]:
    found = [prosody(corpus.audio(u), corpus.sample_rate, hop) for u in corpus.all[first:first + TOGETHER]]
    return np.concatenate([np.where(its.voiced, its.pitch, -its.pitch) for its in found]).astype(np.float32)
