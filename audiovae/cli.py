"""The command line: finds the command, runs it, and turns errors into one line and exit code 2.

Nothing heavy is imported before the command is known, so that ``audiovae --help`` is at once there.
"""

import importlib
import sys

from audiovae import __version__
from audiovae.errors import AudiovaeError, nearest

COMMANDS = {
    "prepare": "make a training corpus from a folder of recordings (VCTK, LibriTTS, your own)",
    "train": "train a model from a TOML file; stop with Ctrl-C, go on with --resume",
    "encode": "recordings to discrete codes",
    "decode": "codes back to recordings",
    "convert": "say it in another voice",
    "evaluate": "measure a model on recordings: quality, bit rate, speed, memory",
    "inspect": "tell what a code file, checkpoint, corpus or recording holds",
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
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if argv[0] == "--version":
        print(f"audiovae {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        print(f"audiovae: no command '{name}'; {nearest(name, COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f"audiovae.commands.{name}").main(rest)
    except AudiovaeError as error:
        print(f"audiovae: {name}: {str(error).removeprefix(f'{name}: ')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"audiovae: {name}: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
