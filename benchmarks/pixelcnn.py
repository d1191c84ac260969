"""How much faster a PixelCNN prior draws a grid of codes in parts than by a full pass before every code.

    python benchmarks/pixelcnn.py --side 32 --count 4

Both draw the same codes from the same dice, which is checked. The naive way takes the more passes the more codes there
are; ``--passes`` of them are timed, spread over the grid, and the whole is told from their mean.
"""

import argparse
import time

import torch

from audiovae.priors import Drawing, PixelCNNPriorConfig
from audiovae.priors.base import numbers
from audiovae.report import Table
from audiovae.shapes import CodeSpec, Condition, DataSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    side, count = arguments.side, arguments.count
    data = DataSpec(1, 2, size=(side, side), labels=("a", "b"), codes=CodeSpec((512,)))
    rows = []
    for attend in (0, 4):
        torch.manual_seed(0)
        prior = PixelCNNPriorConfig(width=arguments.width, depth=arguments.depth, attend=attend).build(data).eval()
        told = Condition(torch.zeros(count, dtype=torch.int64))
        seeds = [torch.Generator().manual_seed(n) for n in range(count)]
        dice = numbers(seeds, 1, side, side)
        start = time.perf_counter()
        codes = prior.sample((side, side), told, Drawing(), [g.manual_seed(n) for n, g in enumerate(seeds)])
        parts = time.perf_counter() - start
        places = [place * side * side // arguments.passes for place in range(arguments.passes)]
        start, same = time.perf_counter(), 0
        with torch.no_grad():
            for place in places:  # as if all before had been drawn
                i, j = divmod(place, side)
                before = codes.flatten(2).clone()
                before[..., place:] = 0
                logits = prior.network(before.view_as(codes), spatial=prior._told(told, count, (side, side)))
                drawn = Drawing().draw(logits[:, :, i, j], dice[:, 0, i, j])
                same += int((drawn == codes[:, 0, i, j]).sum())
        whole = (time.perf_counter() - start) / len(places) * side * side
        rows.append((f"every {attend} layers" if attend else "none", parts, whole, whole / parts,
                     f"{same} of {count * len(places)}"))
    print(f"{count} grids of {side} x {side} codes at once, width {arguments.width}, depth {arguments.depth}, "
          f"{arguments.threads} thread(s):\n")
    print(Table(("attention", "in parts / s", "by full passes / s", "times faster", "same codes"), rows).text())


if __name__ == "__main__":
    main()
