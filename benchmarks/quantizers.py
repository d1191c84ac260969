"""Time and memory of one quantizer layer, in one run: plain, audiovae, vector-quantize-pytorch.

    python benchmarks/quantizers.py                  # one and two threads, about three minutes
    python benchmarks/quantizers.py --threads 1 --repeats 5

16,384 vectors of width 64. ``plain`` is the whole N x K distance matrix in one fused call, argmin, gather and,
in training, the straight-through gradient and the commitment, with no learning of the codebook at all.
The others also learn theirs. Each is fed its own layout. Repeats of all three alternate, so that a busy
machine slows all alike; the table gives medians, ratios to plain, and the memory a first call adds.
"""

import argparse
import ctypes
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.bottlenecks import RVQConfig, VQConfig

B, L, D = 32, 512, 64


@dataclass(frozen=True)
class Case:
    num_codes: int
    stages: int

    def __str__(self) -> str:
        return f"RVQ {self.stages} x {self.num_codes}" if self.stages > 1 else f"VQ K={self.num_codes}"


CASES = (Case(512, 1), Case(2048, 1), Case(1024, 8))


class Plain(nn.Module):
    """Full distance matrix, argmin, gather; rows (N, D)."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.tables = [torch.randn(case.num_codes, D) * 0.5**stage for stage in range(case.stages)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, z, loss = x, torch.zeros_like(x), x.new_zeros(())
        for table in self.tables:
            r = left.detach()
            distances = torch.addmm(table.square().sum(1), r, table.t(), alpha=-2)  # less ||r||², which argmin ignores
            code = F.embedding(distances.argmin(1), table)
            if self.training:
                loss = loss + F.mse_loss(left, code)
            z, left = z + code, left - code
        return (x + (z - x).detach(), loss) if self.training else (z, loss)


class Ours(nn.Module):
    """(B, D, L)."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        one = VQConfig(num_codes=case.num_codes, dim=D)
        many = RVQConfig(num_codes=case.num_codes, dim=D, num_quantizers=case.stages)
        self.bottleneck = (one if case.stages == 1 else many).build(dims=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.bottleneck(x)
        return latent.z, latent.losses["commitment"]


class Peer(nn.Module):
    """vector-quantize-pytorch with EMA codes, its defaults otherwise; (B, L, D)."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        from vector_quantize_pytorch import ResidualVQ, VectorQuantize

        if case.stages == 1:
            self.layer = VectorQuantize(dim=D, codebook_size=case.num_codes)
        else:
            self.layer = ResidualVQ(dim=D, codebook_size=case.num_codes, num_quantizers=case.stages)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, _, loss = self.layer(x)[:3]
        return z, loss.sum()


Kind = type[Plain] | type[Ours] | type[Peer]


def step(kind: Kind, case: Case, train: bool, batch: int = B) -> Callable[[], None]:
    """One call of a quantizer on random vectors: forward, or forward and backward."""
    torch.manual_seed(0)
    layer = kind(case)
    shape = {Plain: (batch * L, D), Ours: (batch, D, L), Peer: (batch, L, D)}[kind]
    x = torch.randn(*shape, requires_grad=train)
    gradient = torch.randn_like(x)
    if kind is not Plain:
        layer.train()(x.detach())  # a first training step: k-means, where there is one
    layer.train(train)

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def forward_and_backward() -> None:
        z, loss = layer(x)
        torch.autograd.backward([z, loss], [gradient, torch.ones_like(loss)])
        x.grad = None

    return forward_and_backward if train else forward


def seconds(calls: Sequence[Callable[[], object]], repeats: int,
            clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """The median of each call by ``clock``, all of them taking turns."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            start = clock()
            call()
            if turn:  # the first turn warms up
                taken.append(clock() - start)
    return [statistics.median(taken) for taken in times]


def extra_memory(kind: Kind, case: Case, train: bool) -> float:
    """MB by which one call raises the peak of this (fresh) process; Linux only."""
    torch.set_num_threads(1)
    step(kind, case, train, batch=1)()  # loads the code, which is not what is measured
    call = step(kind, case, train)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what the calls above freed is used again, unseen
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    call()
    return (_status("VmHWM") - before) / 1e3


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(key)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-memory", action="store_true", help="skip the memory column (a process per cell)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    kinds: list[Kind] = [Plain, Ours, Peer]
    try:
        import vector_quantize_pytorch  # noqa: F401
    except ImportError:
        kinds.remove(Peer)
        print("vector-quantize-pytorch is not installed (pip install 'audiovae[benchmark]'): left out")
    print(f"{'':14}{'':10}{'threads':>8}" + "".join(f"{kind.__name__.lower() + ' ms':>11}" for kind in kinds), end="")
    print(f"{'ours/plain':>12}{'peer/ours':>11}   extra MB")
    for case in CASES:
        for train in (False, True):
            memory = [] if options.no_memory else [_in_fresh_process(kind, case, train) for kind in kinds]
            for threads in options.threads:
                torch.set_num_threads(threads)
                times = seconds([step(kind, case, train) for kind in kinds], options.repeats)
                row = f"{case!s:14}{'training' if train else 'forward':10}{threads:>8}"
                row += "".join(f"{1e3 * t:>11.1f}" for t in times) + f"{times[1] / times[0]:>12.2f}"
                row += f"{times[2] / times[1]:>11.1f}" if Peer in kinds else f"{'':11}"
                print(row + "   " + " / ".join(f"{m:.0f}" for m in memory), flush=True)


def _in_fresh_process(kind: Kind, case: Case, train: bool) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(extra_memory, kind, case, train).result()


if __name__ == "__main__":
    main()
