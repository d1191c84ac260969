"""What the spectral criteria cost a training step, beside the same formulas on torch.stft and autograd.

    python benchmarks/criteria.py

One line a criterion: processor milliseconds of forward and backward on 16 crops of 1 s at 16 kHz, one
thread, medians of interleaved runs, after both were found to give the same loss and the same gradient.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.audio.features import STFT
from audiovae.criteria import ComplexSTFT, Criterion, JukeboxSpectral, LogMelL1, MultiResolutionSTFT


class PlainSTFT(STFT):
    """The same frames by ``torch.stft``, differentiated by autograd."""

    def power(self, x: Tensor) -> Tensor:
        left = (self.n_fft - self.size) // 2  # torch centres a short window in n_fft
        padded = F.pad(self.pad(x), (left, self.n_fft - self.size - left))
        spectrum = torch.stft(padded, self.n_fft, self.hop, self.size, self.window, center=False,
                              return_complex=True)
        power = spectrum.abs().square().transpose(1, 2)
        return power.reshape(*x.shape[:-1], *power.shape[1:])


def plain(criterion: Criterion) -> Criterion:
    """``criterion`` with every transform replaced by the plain one."""
    for module in criterion.modules():
        if isinstance(module, STFT):
            module.__class__ = PlainSTFT
    return criterion


def step(criterion: Criterion, estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    loss = criterion(estimate, target)
    return loss.detach(), torch.autograd.grad(loss, estimate)[0]


def milliseconds(runs: int, *acts: Callable[[], object]) -> list[float]:
    """The median processor time of each act; they take turns, so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in acts]
    for run in range(runs + 3):
        for kept, act in zip(times, acts, strict=True):
            start = time.process_time()
            act()
            if run >= 3:
                kept.append(1e3 * (time.process_time() - start))
    return [statistics.median(kept) for kept in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    target = 0.1 * torch.randn(16, 1, 16000)
    estimate = (target + 0.05 * torch.randn_like(target)).requires_grad_()
    print(f"{'criterion':24}{'ours ms':>10}{'plain ms':>10}{'ratio':>8}")
    for make in (lambda: LogMelL1(16000), MultiResolutionSTFT, JukeboxSpectral, ComplexSTFT):
        ours, peer = make(), plain(make())
        for a, b in zip(step(ours, estimate, target), step(peer, estimate, target), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
        fast, slow = milliseconds(args.runs, lambda ours=ours: step(ours, estimate, target),
                                  lambda peer=peer: step(peer, estimate, target))
        print(f"{type(ours).__name__:24}{fast:10.1f}{slow:10.1f}{slow / fast:8.2f}")


if __name__ == "__main__":
    main()
