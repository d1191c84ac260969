"""audiovae convert: say it in another voice."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiovae.audio.io import is_converted
from audiovae.checkpoint import load_model
from audiovae.codec import Codec
from audiovae.commands.arguments import AUDIO, over_files, parse
from audiovae.commands.targets import files_of, target_voice
from audiovae.convert import (
    DEFAULT,
    LIKENESS,
    MODE,
    PASSES,
    RETRIEVAL,
    Converter,
    Melody,
    Mode,
    check_coded,
    check_passes,
    check_target,
    convert_file,
)
from audiovae.errors import ConfigError
from audiovae.retrieval import check_share
from audiovae.voices import is_voice_model

OneFile = Callable[[Path, Path], str]
RATES = 1000, 384_000  # Hz


@dataclass(frozen=True)
class Arguments:
    """Convert recordings to another voice: one that is heard in recordings, or a speaker of a corpus.

    Example: audiovae convert in.wav --to my_voice.wav -o out.wav

    Several targets write one file each: audiovae convert in.wav --to a.voice recordings/b p226 -o out/.
    Use a person's voice only with their consent. What is written says in its metadata that it was converted.
    """

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Recordings, globs or folders, in which what was converted before is passed over."""
    to: tuple[str, ...]
    """Targets: a recording (5 s will do, more is better), a folder of them, a file of `audiovae enroll`, or a speaker
    of the corpus."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Recording, or a folder for several recordings or targets (default: beside the source)."""
    model: str = DEFAULT
    """Checkpoint folder, training run or hub repository (default: the one that comes with audiovae)."""
    pitch: str = "target"
    """`target` moves it to the target's mean and range, `source` keeps it, a number moves it by so many semitones."""
    mode: Mode | None = None
    """`clear` filters the recording itself until it is as the model says it; `latents` speaks anew what was said: a
    little nearer to the target's voice, and less clear; `codes` does so once it is rounded to codes (default: clear, if
    the model hears its speakers)."""
    likeness: float = LIKENESS
    """In mode `clear`, how far it is filtered, from 0 (by what lies between the two voices: most words are kept) to 1
    (until it is as mode `latents` would say it)."""
    passes: int = PASSES
    """But in mode `clear`, how many times it is said: each leaves less of the source's voice, and of its words."""
    retrieval: float = RETRIEVAL
    """How far what was said is drawn, from 0 to 1, towards what lies nearest in the target's own recordings: further
    leaves less of the source's voice, and of its words."""
    transport: bool = True
    """Whether what was said is brought, before that, to where the target's own recordings lie in all: less is left of
    the source's voice."""
    corpus: Path | None = None
    """Prepared corpus with the speakers that --to names (default: the one the model was trained on)."""
    kbps: float | None = None
    """Most kbit/s of codes that what was said is rounded to: fewer carry less of the source's voice, and of its words
    (default: in mode `codes` all there are, in others it is not rounded)."""
    rate: int | None = None
    """Sample rate to write, Hz (default: the model's)."""
    format: Literal["wav", "flac", "ogg", "mp3"] = "wav"
    """What to write when the output is a folder."""
    channel: int | None = None
    """Channel to convert, from 0 (default: the mean of all)."""


def main(argv: list[str]) -> int:
    arguments = parse("convert", Arguments, argv)
    targets = tuple(dict.fromkeys(arguments.to))
    if not targets:
        raise ConfigError("--to names no voice: give a recording of it, a folder, or a speaker of the corpus.")
    mode = arguments.mode or MODE
    check_passes(arguments.passes, mode)
    check_coded(arguments.kbps is not None, mode)
    check_share(arguments.retrieval)
    check_share(arguments.likeness, "likeness")
    tune = melody(arguments.pitch)
    if arguments.rate is not None and not RATES[0] <= arguments.rate <= RATES[1]:
        raise ConfigError(f"--rate wants {RATES[0]} to {RATES[1]} Hz, got {arguments.rate}.")
    model = load_model(arguments.model)
    if is_voice_model(model):
        converter = Converter(model, arguments.kbps)
        each = {Path(name).stem: _by_ear(converter, name, tune, mode, arguments) for name in targets}
    else:
        if (arguments.pitch, arguments.mode in (None, "codes"), arguments.likeness, arguments.passes,
                arguments.retrieval, arguments.transport, arguments.corpus, arguments.rate) != (
                "target", True, LIKENESS, PASSES, RETRIEVAL, True, None, None):
            raise ConfigError("--pitch, --mode clear, --likeness, --passes, --retrieval, --no-transport, --corpus and "
                              "--rate want a model with a reference encoder; this one is told its speakers by name: "
                              "leave them out.")
        codec = Codec(model, arguments.kbps)
        for target in targets:
            check_target(codec, target)
        each = {name: partial(_by_name, codec, name, arguments) for name in targets}
    if len(each) < len(targets):
        raise ConfigError("--to names two voices whose files would be called alike: rename one.")
    several = len(each) > 1 or arguments.output is None

    def process(source: Path, *outputs: Path) -> str:
        return "\n".join(convert(source, output) for convert, output in zip(each.values(), outputs, strict=True))

    return over_files("convert", arguments.inputs, arguments.output, f".{arguments.format}", AUDIO, process,
                      tags=tuple(f"-to-{name}" for name in each) if several else ("",),
                      kept=tuple(chain.from_iterable(map(files_of, targets))),
                      own=is_converted)


def _by_name(codec: Codec, name: str, arguments: Arguments, source: Path, output: Path) -> str:
    return convert_file(codec, source, output, name, arguments.channel)


def _by_ear(converter: Converter, name: str, tune: Melody, mode: Mode, arguments: Arguments) -> OneFile:
    """What converts a file to the voice that ``name`` stands for; how much of it was heard is said at once."""
    voice = target_voice(converter.model, name, arguments.corpus, arguments.model)
    how = "enrolled with" if voice.weights else "heard in"
    print(f"{name}: {how} {voice.seconds:.1f} s, {voice.hertz:.0f} Hz on average.")
    return lambda source, output: converter.convert_file(
        source, output, voice, name, tune, arguments.channel, arguments.rate, mode,
        arguments.passes, arguments.retrieval, arguments.transport, arguments.likeness)


def melody(pitch: str) -> Melody:
    """What --pitch says; ConfigError where it is neither a word nor a number of semitones in reach.

    >>> melody("target"), melody("-3")
    ('target', -3.0)
    """
    if pitch == "target" or pitch == "source":
        return pitch
    try:
        semitones = float(pitch)
    except ValueError:
        raise ConfigError(f"--pitch wants target, source or a number of semitones, got '{pitch}'.") from None
    if not abs(semitones) <= 36:
        raise ConfigError(f"--pitch wants semitones from -36 to 36, got {pitch}.")
    return semitones
