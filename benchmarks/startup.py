"""How long the command line and the package take to be there, each in fresh processes.

    python benchmarks/startup.py                # about two minutes

The bare interpreter and a bare ``import torch`` stand beside them, since neither can be beaten. All take
turns, so that a busy machine slows all alike; the table gives medians and extremes of wall clock.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PYTHON = sys.executable
COMMAND = str(Path(PYTHON).with_name("audiovae"))
CASES = {
    "python -c pass": [PYTHON, "-c", "pass"],
    "audiovae --help": [COMMAND, "--help"],
    "import audiovae": [PYTHON, "-c", "import audiovae"],
    "audiovae encode --help": [COMMAND, "encode", "--help"],
    "import torch": [PYTHON, "-c", "import torch"],
    "from audiovae import Codec": [PYTHON, "-c", "from audiovae import Codec"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(args.repeats + 1):
        for name, command in CASES.items():
            taken = seconds(command)
            if turn:  # the first turn fills the disk cache
                times[name].append(taken)
    print(f"{'':28}{'median s':>10}{'least s':>10}{'most s':>10}")
    for name, taken in times.items():
        print(f"{name:28}{statistics.median(taken):>10.2f}{min(taken):>10.2f}{max(taken):>10.2f}")


if __name__ == "__main__":
    main()
