"""audiovae enroll: practise a voice once, and keep it as a small file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from audiovae.checkpoint import load_model
from audiovae.commands.arguments import parse
from audiovae.commands.targets import recordings
from audiovae.convert import DEFAULT
from audiovae.enrolment import STEPS, enroll
from audiovae.errors import ConfigError, OutputError, VoiceError
from audiovae.files import check_file
from audiovae.voices import SUFFIX, check_voice_model


@dataclass(frozen=True)
class Arguments:
    """Practise a voice on recordings of it, half a minute of work, and keep it in a file for `audiovae convert --to`.

    Example: audiovae enroll my_voice/ -o me.voice, then audiovae convert in.wav --to me.voice -o out.wav

    The model and all other voices stay as they are. Enrol a person's voice only with their consent.
    """

    voice: tyro.conf.Positional[str]
    """A recording, a folder of recordings, or a speaker of the corpus: half a minute of speech or more."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The voice file to write, NAME.voice."""
    model: str = DEFAULT
    """Checkpoint folder, training run or hub repository (default: the one that comes with audiovae)."""
    corpus: Path | None = None
    """Prepared corpus with the speaker (default: the one the model was trained on)."""
    steps: int = STEPS
    """Steps of practice; more come nearer to the voice, and learn its recordings by heart in the end."""
    seed: int = 0
    """The same seed gives the same voice."""


def main(argv: list[str]) -> int:
    arguments = parse("enroll", Arguments, argv)
    if arguments.output.suffix != SUFFIX:
        raise OutputError(f"{arguments.output}: a voice is kept as NAME{SUFFIX}.")
    if arguments.steps < 1:
        raise ConfigError(f"--steps wants 1 or more, got {arguments.steps}.")
    if not 0 <= arguments.seed < 1 << 63:
        raise ConfigError(f"--seed wants 0 or more, and less than 2^63, got {arguments.seed}.")
    check_file(arguments.output)
    model = load_model(arguments.model)
    check_voice_model(model)
    try:
        voice = enroll(model, recordings(model, arguments.voice, arguments.corpus, arguments.model),  # type: ignore
                       arguments.steps, arguments.seed)
    except VoiceError as error:
        raise VoiceError(f"{arguments.voice}: {error}") from None
    voice.save(arguments.output)
    print(f"{arguments.output}: a voice of {voice.hertz:.0f} Hz on average, enrolled with {voice.seconds:.1f} s in "
          f"{arguments.steps} steps, {arguments.output.stat().st_size / 1e6:.1f} MB.")
    return 0
