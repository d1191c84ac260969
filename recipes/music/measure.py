"""What new music owes to the music it was learnt from, and what each level of codes holds.

    python recipes/music/measure.py TOP BOTTOM [--songs 8] [--pieces 6] [--seconds 20] [-o FOLDER]

TOP and BOTTOM are runs of priors; the corpus and the model of the codes are theirs. Prints four tables: nats a code,
genres asked for and told, runs of codes that were copied, and what stays of a piece when lower levels are drawn anew,
each as soon as it is found. Genres are of the pieces that have one.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from audiovae.audio.waveform import mono
from audiovae.checkpoint import load_model, read_description
from audiovae.code_data import AudioCodes, CodesData
from audiovae.config import from_dict
from audiovae.errors import AudiovaeError, ConfigError, CorpusError
from audiovae.evaluate_priors import evaluate_prior, evenly
from audiovae.files import atomic_file
from audiovae.generate import PriorFile, Request, Steps, draw, open_priors, open_songs
from audiovae.level_codec import AnyCodec, open_codec
from audiovae.metrics import chroma_similarity, mean_interval, rhythm_similarity, timbre_distance
from audiovae.metrics.sequences import SequenceClassifier, longest_copy
from audiovae.models import PriorModel
from audiovae.report import Table
from audiovae.songs import decoded


@dataclass(frozen=True)
class Arguments:
    """Measure priors over codes of music."""

    priors: tyro.conf.Positional[tuple[Path, ...]]
    """Runs of priors, one for each level, in any order."""
    songs: int = 8
    """Songs drawn of each genre."""
    pieces: int = 6
    """Held-out pieces whose lower levels are drawn anew."""
    seconds: float = 20.0
    """Length of each."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for music.json."""


@dataclass
class Music:
    """The priors, the model of their codes, and the codes they were trained on, by level."""

    priors: list[PriorFile]
    codec: AnyCodec
    sources: dict[int, AudioCodes]

    @classmethod
    def open(cls, paths: tuple[Path, ...]) -> "Music":
        priors = open_priors(paths)
        sources = {}
        for prior in priors:
            values = read_description(prior.path)["experiment"]["data"]
            source = from_dict(CodesData, values, source=str(prior.path)).build(seed=0)
            if not isinstance(source, AudioCodes):
                raise CorpusError(f"prior {prior.path} is over codes of pictures.")
            sources[prior.codes.level] = source
        return cls(priors, open_codec(priors[0].trained_on or "", prior=False), sources)

    @property
    def top(self) -> int:
        return self.priors[0].codes.level

    def new(self, request: Request, given: dict[int, Steps] | None = None, levels: int | None = None
            ) -> dict[int, Steps]:
        """Songs drawn by the first ``levels`` priors."""
        priors = self.priors[:levels]
        return draw(priors, request, open_songs(priors, self.codec.code_levels, request, given))


def likelihood(music: Music) -> dict[str, Table]:
    """nats a code of every prior on the test part."""
    tables = {}
    for prior in music.priors:
        model = load_model(prior.path)
        assert isinstance(model, PriorModel)
        tables[f"level {prior.codes.level}"] = evaluate_prior(model, music.sources[prior.codes.level], "test").table()
    return tables


def genres(music: Music, songs: int, seconds: float) -> tuple[Table, list[NDArray[np.int64]]]:
    """Genres that a classifier, trained on real codes of the slowest level, tells of real and of new codes."""
    source, spec = music.sources[music.top], music.priors[0].codes
    names = source.corpus.tags.get("genre", ())
    if len(names) < 2:
        return Table(("genres", "accuracy"), []), []
    steps = round(seconds * music.codec.sample_rate / spec.hop)

    def cut(split: str) -> tuple[list[NDArray[np.int64]], list[str]]:
        parts, labels = [], []
        for utterance, codes in source.whole(split):  # type: ignore[arg-type]
            for start in range(0, codes.shape[1] - steps // 2, steps) if utterance.tags.get("genre") else ():
                parts.append(codes[:, start:start + steps])
                labels.append(utterance.tags["genre"][0])
        if not parts:
            raise CorpusError(f"no piece of the {split} part has a genre and lasts {seconds / 2:g} s: take fewer "
                              "--seconds.")
        return parts, labels

    judge = SequenceClassifier(spec.num_codes).fit(*cut("train"))
    rows, new = [("real, artists never heard", judge.accuracy(*cut("test")), len(cut("test")[0]))], []
    for told in (True, False):
        right = []
        for number, name in enumerate(names):
            request = Request(round(seconds * music.codec.sample_rate), songs, songs, seed=number,
                              tags=(f"genre={name}",) if told else ())
            drawn = list(music.new(request, levels=1)[music.top])
            right += [said == name for said in judge.predict(drawn)]
            new += drawn if told else []
        rows.append((f"new, {'told the genre' if told else 'told nothing'}", float(np.mean(right)), len(right)))
    rows.append(("chance", 1 / len(names), 0))
    return Table((f"taken for the genre, of {len(names)}", "share", "pieces"), rows), new


def novelty(music: Music, new: list[NDArray[np.int64]]) -> Table:
    """The longest run of steps that a piece shares with the training part: of new ones, and of real held-out ones."""
    source, spec = music.sources[music.top], music.priors[0].codes
    train = [codes for _, codes in source.whole("train")]
    length = new[0].shape[1]
    real = [codes[:, :length] for _, codes in source.whole("test") if codes.shape[1] >= length]
    rows = []
    for name, pieces in (("new", new), ("real, held out", real)):
        runs = np.array([longest_copy(piece, train).length for piece in pieces]) * spec.hop / music.codec.sample_rate
        rows.append((name, mean_interval(runs), float(runs.max()), len(pieces)))
    return Table(("longest run shared with training / s", "mean", "longest", "pieces"), rows)


def levels(music: Music, pieces: int, seconds: float) -> Table:
    """What stays of held-out pieces: all codes kept, those of the slowest level, and none (another piece).

    Pieces are spread evenly over the part, and another is half of them away, so of another artist where there are two.
    """
    samples, corpus = round(seconds * music.codec.sample_rate), music.sources[music.top].corpus
    held = [utterance for utterance in corpus.utterances("test") if utterance.length >= samples]
    if min(len(held), pieces) < 2:
        raise CorpusError(f"what levels hold is told of 2 --pieces or more of {seconds:g} s, the test part has "
                          f"{len(held)} and {pieces} were asked for: take fewer --seconds.")
    pieces = min(pieces, len(held))
    found: list[dict[int, Steps]] = []
    for utterance in evenly(held, pieces):
        codes = music.codec.encode(torch.from_numpy(corpus.audio(utterance))[..., :samples], music.codec.sample_rate)
        found.append(dict(enumerate(codes.levels)))
    request = Request(samples)
    whole = [mono(decoded(music.codec, request, {level: codes[None] for level, codes in its.items()}, 0, 0))
             for its in found]
    anew = []
    for number, its in enumerate(found):
        songs = music.new(Request(samples, seed=number), {music.top: its[music.top]})
        anew.append(mono(decoded(music.codec, request, songs, 0, 0)))
    rate, rows = music.codec.sample_rate, []
    for name, estimates in ((f"level {music.top} kept, the others drawn anew", anew),
                            ("another piece", [*whole[pieces // 2:], *whole[:pieces // 2]])):
        pairs = list(zip(estimates, whole, strict=True))
        rows.append((name, mean_interval(chroma_similarity(a, b, rate) for a, b in pairs),
                     mean_interval(rhythm_similarity(a, b, rate) for a, b in pairs),
                     mean_interval(timbre_distance(a, b, rate) for a, b in pairs)))
    return Table((f"{len(found)} pieces, against all codes kept", "chroma", "onsets", "timbre / dB"), rows)


def measure(paths: tuple[Path, ...], songs: int, pieces: int, seconds: float) -> Iterator[tuple[str, Table]]:
    """All tables with their captions."""
    music = Music.open(paths)
    for name, table in likelihood(music).items():
        yield f"nats a code, {name}", table
    table, new = genres(music, songs, seconds)
    if new:
        yield "genres", table
        yield "novelty", novelty(music, new)
    if len(music.priors) == len(music.codec.code_levels) > 1:
        yield "levels", levels(music, pieces, seconds)


def main() -> int:
    arguments = tyro.cli(Arguments)
    if not arguments.seconds > 0 or arguments.pieces < 2 or arguments.songs < 1:
        raise ConfigError("wanted --seconds above 0, 2 --pieces and a --song of each genre at the least, got "
                          f"{arguments.seconds:g}, {arguments.pieces} and {arguments.songs}.")
    start = time.perf_counter()
    found = {}
    for caption, table in measure(arguments.priors, arguments.songs, arguments.pieces, arguments.seconds):
        print(f"{caption}\n\n{table.text()}\n", flush=True)
        found[caption] = json.loads(table.json())
        if arguments.output is not None:
            with atomic_file(arguments.output / "music.json") as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Measured in {time.perf_counter() - start:.0f} s.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AudiovaeError as error:
        print(f"measure: {error}", file=sys.stderr)
        sys.exit(2)
