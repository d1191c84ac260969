"""What codes know of phonemes: each code stands for one, and how often it is right for speakers never heard.

    python recipes/phonemes/phonemes.py CORPUS --models runs/voice speech-16k --split split.txt -o runs/phonemes

CORPUS holds recordings as VCTK lays them out (wav48/SPEAKER/ID.wav), what was said as phones/SPEAKER/ID.txt ("IH0_B
T_E": phones of ARPABET, stress and place in the word as in Kaldi's lexicons, both optional), and split.txt, lines of
SPEAKER train, valid or test. Phones are aligned to sound first; the alignment is kept, so that another model takes only
the time to encode.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from maps import REACH, READERS, Ints, counted, of_first, of_neighbours
from numpy.typing import NDArray
from sound import SIDE, STRIDE, of_sound
from tqdm import tqdm

from audiovae import Codec
from audiovae.audio.alignment import HOP, RATE, Chain, PhoneModel, cepstra
from audiovae.audio.io import read_audio
from audiovae.audio.layouts import list_corpus, read_text
from audiovae.audio.splits import read_split_table
from audiovae.checkpoint import DEFAULT, find_checkpoint
from audiovae.errors import AudiovaeError, CorpusError
from audiovae.files import atomic_file
from audiovae.metrics import Interval, mean_interval
from audiovae.report import Report, Table, draw_matrix

SILENCE = "sil"
PAUSES = {"SIL", "SP", "PAU"}  # in a transcript: pauses are found without being told
FITTED_HOURS = 0.5  # of training speakers, that the aligner's Gaussians are learnt from
ROUNDS = (12, 4, 3)  # with one, two and four Gaussians a state


@dataclass(frozen=True)
class Arguments:
    """Tell how much of the phonemes is in codes.

    Example: python recipes/phonemes/phonemes.py CORPUS --models runs/voice
    """

    data: tyro.conf.Positional[Path]
    """The corpus: wav48, phones, split.txt."""
    models: tuple[str, ...] = (DEFAULT,)
    """Codecs: runs, checkpoints or names."""
    split: Path | None = None
    """Another table of SPEAKER and part than the corpus's own. Those in test must be new to the models."""
    limit: int | None = None
    """Recordings of each speaker, at most."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/phonemes")
    """Folder of the alignment, the report and the numbers."""


@dataclass(frozen=True)
class Recording:
    """A recording, the phones said in it, and where words end; adult is None where no age is known."""

    id: str
    speaker: str
    path: Path
    test: bool
    adult: bool | None
    phones: tuple[str, ...]
    ends: tuple[bool, ...]

    def chain(self, number: dict[str, int]) -> Chain:
        """Its phones with a pause, which may be absent, before the first, and after every word."""
        said, optional = [number[SILENCE]], [True]
        for place, (phone, end) in enumerate(zip(self.phones, self.ends, strict=True)):
            said, optional = [*said, number[phone]], [*optional, False]
            if end or place == len(self.phones) - 1:
                said, optional = [*said, number[SILENCE]], [*optional, True]
        return Chain(torch.tensor(said), torch.tensor(optional))


@dataclass(frozen=True)
class Frames:
    """Steps of a codec, one after the other: context (N, O, Q) of codes about each, its phoneme, who speaks.

    Or frames of sound, with what is heard about each, (N, O, D), in place of codes.
    """

    context: NDArray[Any]
    phoneme: Ints
    speaker: NDArray[np.str_]

    def where(self, chosen: NDArray[np.bool_]) -> "Frames":
        return Frames(self.context[chosen], self.phoneme[chosen], self.speaker[chosen])


def main(argv: list[str]) -> int:
    arguments = tyro.cli(Arguments, args=argv)
    try:
        recordings = listed(arguments)
        names = [SILENCE, *sorted({phone for recording in recordings for phone in recording.phones})]
        recordings, paths, guesses = aligned(recordings, names, arguments.output)
        report(arguments, recordings, names, paths, guesses)
    except AudiovaeError as error:
        print(f"phonemes: {error}", file=sys.stderr)
        return 2
    return 0


def listed(arguments: Arguments) -> list[Recording]:
    """The recordings of training and test speakers that have phones. CorpusError where there are none of either."""
    listing = list_corpus(arguments.data, "vctk-0.80")
    parts = read_split_table(arguments.split or listing.root / "split.txt")
    found: list[Recording] = []
    counts: dict[str, int] = {}
    for source in listing.sources:
        text = read_text(listing.root / "phones" / source.speaker / f"{source.id}.txt")
        spoken = [] if text is None else [read_phone(word) for word in text.split()]
        spoken = [(phone, end) for phone, end in spoken if phone not in PAUSES]
        taken = counts.get(source.speaker, 0)
        if not spoken or parts.get(source.speaker) not in ("train", "test") or taken == arguments.limit:
            continue
        counts[source.speaker] = taken + 1
        about = listing.speakers.get(source.speaker)
        adult = None if about is None or about.age is None else about.age >= 18
        phones, ends = zip(*spoken, strict=True)
        found.append(Recording(source.id, source.speaker, source.path, parts[source.speaker] == "test", adult,
                               phones, ends))
    for part in (False, True):
        if not any(recording.test is part for recording in found):
            raise CorpusError(f"{arguments.data} has no recording with phones of a {'test' if part else 'train'} "
                              f"speaker: see phones/ and the split table.")
    return found


def read_phone(word: str) -> tuple[str, bool]:
    """A phone without its stress, and whether a word ends with it.

    >>> read_phone("IH0_B"), read_phone("AY1_S"), read_phone("NG")
    (('IH', False), ('AY', True), ('NG', False))
    """
    phone, _, place = word.partition("_")
    return re.sub(r"\d$", "", phone.upper()), place in ("E", "S")


def aligned(recordings: list[Recording], names: list[str], output: Path) -> tuple[list[Recording], list[Ints], Ints]:
    """The recordings that can be aligned and the phone of each 10 ms of them; what Gaussians alone say of test ones.

    Read from ``output`` where they were aligned before. The Gaussians are learnt from training speakers.
    """
    told = [(r.id, r.speaker, r.path.stat().st_size, r.test, r.phones, r.ends) for r in recordings]
    key = hashlib.blake2b(json.dumps([told, FITTED_HOURS, ROUNDS]).encode(), digest_size=16).hexdigest()
    kept = output / f"alignment-{key[:8]}.npz"
    if kept.exists():
        with np.load(kept) as file:
            there = [recordings[n] for n in file["places"]]
            return there, np.split(file["paths"].astype(np.int64), file["cuts"]), file["guesses"].astype(np.int64)
    number = {name: n for n, name in enumerate(names)}
    model, chains = PhoneModel(len(names)), [recording.chain(number) for recording in recordings]
    features = [cepstra(read_audio(recording.path, RATE)[0][0])
                for recording in tqdm(recordings, "reading", unit="file", disable=None)]
    places = [n for n, (x, chain) in enumerate(zip(features, chains, strict=True)) if model.fits(x, chain)]
    training = [n for n in places if not recordings[n].test]
    hours = sum(len(features[n]) for n in training) * HOP / RATE / 3600
    some = training[::max(1, round(hours / FITTED_HOURS))]
    model.fit([features[n] for n in some], [chains[n] for n in some], ROUNDS,
              watch=lambda rounds: tqdm(rounds, "fitting", unit="round", disable=None))
    paths: list[Ints] = []
    for start in tqdm(range(0, len(places), 200), "aligning", unit="200 files", disable=None):
        batch = places[start:start + 200]
        paths += [path.numpy() for path in model.align([features[n] for n in batch], [chains[n] for n in batch])]
    guesses = np.concatenate([model.phone_of[model.scores(features[n]).argmax(1)].numpy()
                              for n in places if recordings[n].test])
    with atomic_file(kept) as temporary:
        np.savez_compressed(temporary, places=places, paths=np.concatenate(paths).astype(np.int16),
                            cuts=np.cumsum([len(path) for path in paths])[:-1], guesses=guesses.astype(np.int16))
    return [recordings[n] for n in places], paths, guesses


def encoded(codec: Codec, recordings: list[Recording], paths: list[Ints]) -> tuple[Frames, Frames]:
    """Every step's codes with REACH before and after, and the phone that is said in its middle: training, test."""
    its = codec.speakers[0] if codec.speakers else None  # the codes are the same, and none is looked for

    def of(recording: Recording, path: Ints) -> Frames:
        wave, rate = read_audio(recording.path)
        codes = codec.encode(wave, rate, its).levels[0].T.astype(np.int16)
        steps = np.arange(len(codes))
        middle = ((steps + 0.5) * codec.hop / codec.sample_rate * RATE / HOP).astype(np.int64)
        return Frames(around(codes, steps, REACH), path[middle.clip(max=len(path) - 1)],
                      np.repeat(recording.speaker, len(codes)))

    return collected("encoding", of, recordings, paths)


def listened(recordings: list[Recording], paths: list[Ints]) -> tuple[Frames, Frames]:
    """Cepstra about every STRIDE-th frame of 10 ms, SIDE on either side, and the phone there: training, test."""
    def of(recording: Recording, path: Ints) -> Frames:
        sound = cepstra(read_audio(recording.path, RATE)[0][0]).numpy().astype(np.float16)[:len(path)]
        at = np.arange(0, len(sound), STRIDE)
        return Frames(around(sound, at, SIDE), path[at], np.repeat(recording.speaker, len(at)))

    return collected("hearing", of, recordings, paths)


def around(rows: NDArray[Any], at: Ints, side: int) -> NDArray[Any]:
    """Rows (L, D) with ``side`` before and after each place ``at`` (N,), the ends held: (N, O, D)."""
    return rows[np.clip(at[:, None] + np.arange(-side, side + 1), 0, len(rows) - 1)]


def collected(doing: str, of: Callable[[Recording, Ints], Frames], recordings: list[Recording],
              paths: list[Ints]) -> tuple[Frames, Frames]:
    """What ``of`` makes of each recording, one after the other: of training speakers, of test speakers."""
    parts: dict[bool, list[Frames]] = {False: [], True: []}
    for recording, path in tqdm(zip(recordings, paths, strict=True), doing, len(recordings), unit="file",
                                disable=None):
        parts[recording.test].append(of(recording, path))
    train, test = (Frames(*(np.concatenate([getattr(one, key) for one in parts[part]])
                            for key in ("context", "phoneme", "speaker"))) for part in (False, True))
    return train, test


def accuracy(guess: Ints, frames: Frames) -> Interval:
    """Share of frames told right: mean over speakers, in percent, with its 95 % interval."""
    right = guess == frames.phoneme
    return mean_interval(100 * right[frames.speaker == name].mean() for name in np.unique(frames.speaker))


def measured(train: Frames, test: Frames, count: int) -> dict[str, Interval]:
    """What chance and each reader reach."""
    most = np.bincount(train.phoneme, minlength=count).argmax()
    found = {"chance: the most frequent phoneme": accuracy(np.full(len(test.phoneme), most), test)}
    for name, reader in READERS.items():
        if train.context.shape[2] > 1 or reader in (of_first, of_neighbours):
            found[name] = accuracy(reader(train.context, train.phoneme, test.context, count), test)
    return found


def report(arguments: Arguments, recordings: list[Recording], names: list[str], paths: list[Ints],
           guesses: Ints) -> None:
    """Encode with each model, measure, and write the page and the numbers."""
    rows: list[tuple[str, ...]] = []
    adults = {r.speaker for r in recordings if r.adult}
    tested = {r.speaker for r in recordings if r.test}
    page = Report("Phonemes from codes", lead=f"{len(names)} phonemes, {len(tested)} speakers that neither the map "
                  "nor, by the split table, the models have met.")
    page.section("Accuracy per frame")
    charts: list[tuple[str, Frames, Frames]] = []
    for model in arguments.models:
        checkpoint = find_checkpoint(model)
        codec = Codec.from_pretrained(checkpoint, prior=False)
        if heard := tested & set(codec.model.data.labels):
            raise CorpusError(f"model {model} was trained on {len(heard)} of the {len(tested)} speakers to be tested, "
                              f"such as '{min(heard)}': give its own table of speakers with --split.")
        name = f"{checkpoint.parent.name}/{checkpoint.name}"
        train, test = encoded(codec, recordings, paths)
        charts.append((name, train, test))
        groups = {"all": test}
        if adults & tested and tested - adults:
            groups["adults"] = test.where(np.isin(test.speaker, list(adults)))
        for group, its in groups.items():
            found = measured(train, its, len(names))
            speech = measured(train.where(train.phoneme > 0), its.where(its.phoneme > 0), len(names))
            rows += [(name, group, reader, str(found[reader]), str(speech[reader])) for reader in found]
    truth = [path for recording, path in zip(recordings, paths, strict=True) if recording.test]
    spoken = np.repeat([r.speaker for r in recordings if r.test], [len(path) for path in truth])
    uncoded = Frames(np.empty((len(spoken), 0, 0), np.int64), np.concatenate(truth), spoken)
    rows.append(("none", "all", "the aligner's Gaussians, a frame alone", str(accuracy(guesses, uncoded)),
                 str(accuracy(guesses[uncoded.phoneme > 0], uncoded.where(uncoded.phoneme > 0)))))
    train, test = listened(recordings, paths)
    both = [(train, test), (train.where(train.phoneme > 0), test.where(test.phoneme > 0))]
    ceiling = [str(accuracy(of_sound(a.context, a.phoneme, b.context, len(names)), b)) for a, b in both]
    rows.append(("none", "all", f"a perceptron on what the aligner hears, {SIDE} frames on either side", *ceiling))
    table = Table(("codes", "speakers", "read from", "right, %", "without silence, %"), rows)
    page.table(table, "Mean over unseen speakers with its 95 % interval. Without silence: frames of silence are left "
               "out of both learning and judging. Van den Oord 2017 has 49.3 % from one of 128 codes at 25 Hz for 41 "
               "phonemes, where chance is 7.2 %.")
    page.text("The reference is a forced alignment of the phones that were to be said: what a speaker said otherwise "
              "counts against the codes, and so does an edge that the alignment put elsewhere. How much that is, the "
              "perceptron says, which hears what the aligner heard and learns its answers.")
    for name, train, test in charts:
        chart(page, name, train, test, names)
    for file, text in (("phonemes.html", page.html()), ("phonemes.json", table.json() + "\n")):
        with atomic_file(arguments.output / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(table.text())
    hours = sum(map(len, paths)) * HOP / RATE / 3600
    print(f"\n{len(recordings)} recordings, {hours:.2f} h; {len(tested)} of {len({r.speaker for r in recordings})} "
          f"speakers unseen. {arguments.output / 'phonemes.html'} shows which code stands for which phoneme.")


def chart(page: Report, name: str, train: Frames, test: Frames, names: list[str]) -> None:
    """Which phoneme each first code stands for, how well each phoneme is told, and for what it is taken."""
    count = len(names)
    codes, told = train.context[:, REACH, 0], of_first(train.context, train.phoneme, test.context, count)
    table = counted(codes, train.phoneme, int(codes.max()) + 1, count)
    used = np.flatnonzero(table.sum(1))
    share = table[used] / table[used].sum(1, keepdims=True)
    order = np.lexsort((-share.max(1), share.argmax(1)))
    page.section(f"{name}: which code is which phoneme")
    page.figure(f"Share of each phoneme among the frames of a first code, training speakers: {len(used)} codes in "
                "use, ordered by the phoneme they stand for.",
                draw_matrix(share[order].T, names, xlabel="first code", ylabel="phoneme"))
    confusion = counted(test.phoneme, told, count, count)
    rows = []
    for n in np.argsort(-confusion.sum(1)):
        if not confusion[n].sum():
            continue
        wrong = np.where(np.arange(count) == n, -1, confusion[n]).argmax()
        taken = 100 * confusion[n, wrong] / confusion[n].sum()
        stands = used[share.argmax(1) == n]
        rows.append((names[n], float(100 * confusion[n].sum() / confusion.sum()),
                     float(100 * confusion[n, n] / confusion[n].sum()),
                     f"{names[wrong]} ({taken:.0f} %)" if taken else "none", len(stands),
                     " ".join(map(str, stands[:12])) + (" …" if len(stands) > 12 else "")))
    page.table(Table(("phoneme", "of frames, %", "right, %", "most often taken for", "codes", "which"), rows),
               "Of unseen speakers, told by the first code.")
    page.figure("What each phoneme of unseen speakers is told as, by the first code; each row sums to 1.",
                draw_matrix(confusion / confusion.sum(1, keepdims=True).clip(min=1), names, names, "told as", "said"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
