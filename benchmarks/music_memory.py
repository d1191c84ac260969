"""The most memory that each stage of making music takes, each a process of its own, as a user runs it.

    python benchmarks/music_memory.py [--steps 20] [--minutes 1]

The small recipe's networks, batches and contexts on music composed on the spot; a few steps of training need as much
memory as many. Encoding the corpus is done by the first prior's training where the codes are not there yet, so it is
measured by the command that writes code files. What `import torch` alone takes is given too: every stage contains it.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
MUSIC = ROOT / "recipes/music"


def peak(*words: object) -> float:
    """MB that a command had resident at most; this process imports nothing large, which a child would be charged."""
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(said.decode()[-2000:])
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of every training (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the song (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=0.2, help="of music to train on (default: %(default)s)")
    args = parser.parse_args()
    audiovae, few = ("-m", "audiovae.cli"), ("--train.steps", args.steps)
    with TemporaryDirectory() as place:
        folder = Path(place)
        corpus, codec, top, bottom = (folder / name for name in ("corpus", "codec", "top", "bottom"))
        own = ("--data.corpus", corpus, *few)
        song, whole, back = folder / "top.wav", folder / "whole.wav", folder / "back.wav"
        stages = {
            "import torch": ("-c", "import torch"),
            "rendering the music": (ROOT / "data/demo_music.py", folder / "music", "--hours", args.hours, "--rate",
                                    16000),
            "preparing the corpus": (*audiovae, "prepare", "music", folder / "music", "-o", corpus, "--rate", 16000,
                                     "--test-by", "given"),
            "training both levels": (*audiovae, "train", MUSIC / "small.toml", *own, "-o", codec),
            "encoding the recordings": (*audiovae, "encode", folder / "music", "--model", codec, "-o",
                                        folder / "codes"),
            "training the top prior": (*audiovae, "train", MUSIC / "small_top.toml", *own, "--data.model", codec, "-o",
                                       top),
            "training the bottom prior": (*audiovae, "train", MUSIC / "small_bottom.toml", *own, "--data.model", codec,
                                          "-o", bottom),
            "sampling the top": (*audiovae, "sample", top, "-o", song, "--minutes", args.minutes),
            "sampling the bottom": (*audiovae, "sample", top, bottom, "-o", whole, "--upsample",
                                    song.with_suffix(".codes")),
            "decoding the song": (*audiovae, "decode", whole.with_suffix(".codes"), "--model", codec, "-o", back)}
        print(f"{'':28}{'peak MB':>9}")
        for stage, words in stages.items():
            print(f"{stage:28}{peak(*words):9.0f}", flush=True)


if __name__ == "__main__":
    main()
