"""Drawing codes one after the other from a transformer of 12 layers of 512 over 2048 codes, one thread, one song.

    pip install -e '.[benchmark]'
    python benchmarks/sampling.py [--steps 200]

Processor milliseconds a code: ours, transformers' ``generate`` with a GPT-2 of the same shape and its cache, and one
product of each weight matrix with a vector, which no network of this size can beat. They take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from audiovae.priors import CausalConfig, Drawing
from audiovae.shapes import CodeSpec, DataSpec

DIM, DEPTH, HEADS, CODES = 512, 12, 8, 2048


def milliseconds(repeats: int, codes: int, *acts: Callable[[], object]) -> list[float]:
    """The median processor time a code of each act; the first turn warms up."""
    times: list[list[float]] = [[] for _ in acts]
    for turn in range(repeats + 1):
        for kept, act in zip(times, acts, strict=True):
            start = time.process_time()
            act()
            if turn:
                kept.append(1e3 * (time.process_time() - start) / codes)
    return [statistics.median(kept) for kept in times]


def main() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = DataSpec(channels=1, dims=1, size=(1024,), codes=CodeSpec(num_codes=(CODES,)))
    prior = CausalConfig(dim=DIM, depth=DEPTH, heads=HEADS).build(data).eval()
    peer = GPT2LMHeadModel(GPT2Config(vocab_size=CODES, n_positions=1024, n_embd=DIM, n_layer=DEPTH, n_head=HEADS,
                                      bos_token_id=0, eos_token_id=None, pad_token_id=0)).eval()
    matrices = [m.weight for m in prior.modules() if isinstance(m, nn.Linear)]
    vectors = {w.shape[1]: torch.randn(1, w.shape[1]) for w in matrices}

    @torch.inference_mode()
    def floor() -> None:
        for _ in range(args.steps):
            for w in matrices:
                nn.functional.linear(vectors[w.shape[1]], w)

    def ours() -> None:
        prior.sample((args.steps,), None, Drawing(), [torch.Generator().manual_seed(0)])

    def theirs() -> None:
        peer.generate(torch.zeros(1, 1, dtype=torch.int64), max_new_tokens=args.steps, do_sample=True)

    times = milliseconds(args.repeats, args.steps, ours, theirs, floor)
    print(f"{'':28}{'ms a code':>10}{'codes a second':>16}{'ours is':>9}")
    for name, value in zip(("audiovae", "transformers' generate", "products with the weights"), times, strict=True):
        print(f"{name:28}{value:10.1f}{1e3 / value:16.0f}{value / times[0]:8.2f}x")


if __name__ == "__main__":
    main()
