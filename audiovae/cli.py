"""The command line: finds the command, runs it, and turns errors into one line and exit code 2.

Nothing heavy is imported before the command is known, so that ``audiovae --help`` is at once there.
"""

import importlib
import os
import sys

from audiovae import __version__
from audiovae.errors import AudiovaeError, ConfigError, nearest

COMMANDS = {
    "prepare": "make a training corpus from a folder of recordings (VCTK, LibriTTS, your own)",
    "train": "train a model from a TOML file; stop with Ctrl-C, go on with --resume",
    "encode": "recordings to discrete codes",
    "decode": "codes back to recordings",
    "export": "a codec's encoder and decoder as ONNX or torch.export programs, checked against it",
    "convert": "say it in another voice",
    "enroll": "practise a voice on recordings of it, and keep it as a small file for convert",
    "evaluate": "measure a model: quality, bit rate and speed of audio, likelihood and samples of pictures",
    "prior": "teach a trained codec which codes follow which, so that its files get smaller",
    "sample": "make new music, from nothing, a recording or around a gap, or new pictures, from priors over codes",
    "curve": "train a recipe once for each β, and draw distortion over rate",
    "inspect": "tell what a code file, checkpoint, corpus or recording holds",
    "latents": "walk a latent space: sample, interpolate, traverse, attributes, diagnose",
    "kl": "how far one distribution is from another, term by term",
}

HELP = f"""usage: audiovae COMMAND ...

Audio and music VAEs on one shared core: codes, codecs, voice conversion, image baselines.

commands:
{chr(10).join(f"  {name:<10} {line}" for name, line in COMMANDS.items())}

example:
  audiovae encode speech.wav -o speech.codes --model runs/small

`audiovae COMMAND --help` tells the rest. Exit codes: 0 done, 2 bad input, 130 interrupted.
"""


def main(argv: list[str] | None = None) -> int:
    """Run ``audiovae`` with ``argv`` (default: the process's own) and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    owner = f"audiovae: {argv[0]}" if argv and argv[0] in COMMANDS else "audiovae"
    try:
        code = _run(argv)
        sys.stdout.flush()  # a pipe that was closed or a disk that is full must be met here
        return code
    except AudiovaeError as error:
        print(f"{owner}: {str(error).removeprefix(f'{argv[0]}: ')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{owner}: interrupted.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno is None:  # not of the system
            raise
        _drop_output()
        if isinstance(error, BrokenPipeError):  # as `audiovae inspect FILE | head` does
            return 141
        print(f"{owner}: {error.filename or 'output'}: {(error.strerror or str(error)).lower()}.", file=sys.stderr)
        return 2


def _drop_output() -> None:
    """Let go of what stdout refuses to take; else Python tries once more when it ends, and complains."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if argv[0] == "--version":
        print(f"audiovae {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise ConfigError(f"no command '{argv[0]}'; {nearest(argv[0], COMMANDS)}.")
    return importlib.import_module(f"audiovae.commands.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
