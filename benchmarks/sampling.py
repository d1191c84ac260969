"""Drawing codes one after the other from a transformer of 12 layers of 512 over 2048 codes, one thread, one song.

    pip install -e '.[benchmark]'
    python benchmarks/sampling.py [--steps 200]

Processor milliseconds a code: ours, in float32 and with int8 weights; transformers' ``generate`` with a GPT-2 of the
same shape and its cache; and one product of each weight matrix with a vector, in float32 and in int8, which no network
of this size can beat. They take turns. Weights are random: what int8 costs in nats a code, `audiovae evaluate
--weights int8` says of a trained prior.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from audiovae.nn.int8 import Int8Linear
from audiovae.priors import CausalConfig, CausalPrior, Drawing, quantized
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
    small = quantized(prior)

    def drawn(network: CausalPrior) -> Callable[[], object]:
        return lambda: network.sample((args.steps,), None, Drawing(), [torch.Generator().manual_seed(0)])

    def products(network: CausalPrior) -> Callable[[], object]:
        maps = [m for m in network.modules() if isinstance(m, nn.Linear | Int8Linear)]
        pairs = [(m.row if isinstance(m, Int8Linear) else m, torch.randn(1, m.weight.shape[1])) for m in maps]

        @torch.inference_mode()
        def floor() -> None:
            for _ in range(args.steps):
                for product, vector in pairs:
                    product(vector)

        return floor

    def theirs() -> None:
        peer.generate(torch.zeros(1, 1, dtype=torch.int64), max_new_tokens=args.steps, do_sample=True)

    acts = {"audiovae": drawn(prior), "audiovae, int8": drawn(small), "transformers' generate": theirs,
            "products with the weights": products(prior), "products in int8": products(small)}
    times = dict(zip(acts, milliseconds(args.repeats, args.steps, *acts.values()), strict=True))
    peer_time = times["transformers' generate"]
    print(f"{'':28}{'ms a code':>10}{'codes a second':>16}{'speed to generate':>19}")
    for name, value in times.items():
        print(f"{name:28}{value:10.1f}{1e3 / value:16.0f}{peer_time / value:18.2f}x")


if __name__ == "__main__":
    main()
