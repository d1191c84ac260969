"""The voice that a command names: a voice file, recordings, or a speaker of a corpus."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from audiovae.audio.corpus import Corpus
from audiovae.audio.io import is_converted
from audiovae.audio.resample import resample
from audiovae.checkpoint import find_checkpoint, read_description
from audiovae.commands.arguments import AUDIO
from audiovae.errors import LabelError, VoiceError, nearest
from audiovae.files import expand_inputs
from audiovae.models import Autoencoder
from audiovae.voices import SUFFIX, Voice, hear, load_voice, read_recordings


def target_voice(model: Autoencoder, name: str, corpus: Path | None, source: str) -> Voice:
    """The voice that ``name`` stands for; VoiceError, with the name in it, where it cannot be told.

    ``source`` is where the model came from: a speaker is looked up in ``corpus``, else in the one it was trained on.
    """
    if Path(name).suffix == SUFFIX:
        return load_voice(model, Path(name))
    try:
        return hear(model, recordings(model, name, corpus, source))
    except VoiceError as error:
        raise VoiceError(f"{name}: {error}") from None


def recordings(model: Autoencoder, name: str, corpus: Path | None, source: str) -> Iterator[Tensor]:
    """The recordings (T,) that ``name`` stands for, at the model's rate."""
    if not name:
        raise LabelError("a voice without a name: give a recording of it, a folder, or a speaker of the corpus.")
    if files := files_of(name):
        return iter(read_recordings(model, files))
    return _of_speaker(model, name, corpus or _trained_on(source, name))


def files_of(name: str) -> list[Path]:
    """The recordings that are ``name`` or lie below it; none where it is no path, but a speaker's name.

    What `audiovae convert` wrote below it is none of the person's; VoiceError where there is nothing else.
    """
    if not name or not Path(name).exists():
        return []
    found = expand_inputs([name], AUDIO)
    own = [item.path for item in found if not (item.found and is_converted(item.path))]
    if not own:
        raise VoiceError(f"{name} holds nothing but converted voices, such as {found[0].path.name}: give recordings of "
                         "the person.")
    return own


def _trained_on(source: str, name: str) -> Path:
    """The corpus of the run that ``source`` is; LabelError where it is not there to look ``name`` up in."""
    found = read_description(find_checkpoint(source)).get("experiment", {}).get("data", {}).get("corpus")
    if not found or not Path(found).is_dir():
        raise LabelError(f"{name}: no such recording or folder, and no corpus to look a speaker of that name up in: "
                         "name one with --corpus.")
    return Path(found)


def _of_speaker(model: Autoencoder, name: str, folder: Path) -> Iterator[Tensor]:
    corpus = Corpus.open(folder)
    known = sorted({u.speaker for u in corpus.all})
    if name not in known:
        raise LabelError(f"{name}: no such recording or folder, and no such speaker among the {len(known)} of "
                         f"{folder}; {nearest(name, known)}.")
    theirs = sorted((u for u in corpus.all if u.speaker == name), key=lambda u: (u.split != "train", u.offset))
    for utterance in theirs:
        yield resample(torch.from_numpy(corpus.mixed(utterance)), corpus.sample_rate, model.data.sample_rate or 0)


