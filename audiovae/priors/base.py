"""The contract every prior over codes keeps, and how a code is drawn from its logits."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audiovae.audio.corpus import Split
from audiovae.config import Config, Positive, Weight, Whole
from audiovae.errors import ConfigError, ShapeError
from audiovae.shapes import CodeSpec, Condition

ABSENT = -1  # stands where an example has no code: behind its end, or not drawn yet
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Drawing(Config):
    """How codes are drawn.

    temperature : divides the logits; below 1 the likelier codes come more often, 0 is always the likeliest.
    top_k : the most codes to choose from, 0 for all. top_p : the likeliest codes that make up this share are kept.
    guidance : 1 draws as the prior says; more leans to what was asked, logits u + g (c - u) of those told the
        condition c and those not told u (Ho & Salimans 2022, eq. 6, with g = 1 + w). 0 does not listen at all.

    >>> logits = torch.tensor([[0.0, 2.0, 1.0]])
    >>> [Drawing(top_k=2).draw(logits, torch.tensor([u])).item() for u in (0.1, 0.9)], Drawing(temperature=0).draw(
    ...     logits, torch.tensor([0.0])).item()
    ([1, 2], 1)
    """

    temperature: Weight = 1.0
    top_k: Whole = 0
    top_p: Positive = 1.0
    guidance: Weight = 1.0

    def __post_init__(self) -> None:
        if self.top_p > 1:
            raise ConfigError(f"top_p wants a share above 0 and up to 1, got {self.top_p:g}.")

    def log_chances(self, logits: Tensor) -> Tensor:
        """(..., K) logits to the logarithms of the chances that codes are drawn with."""
        if self.temperature == 0:
            best = torch.full_like(logits, -torch.inf)
            return best.scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k, dim=-1).values[..., -1:], -torch.inf)
        if self.top_p < 1:
            high, order = logits.sort(dim=-1, descending=True)
            before = high.softmax(-1).cumsum(-1) - high.softmax(-1)  # the share of those that are likelier still
            logits = logits.masked_fill((before >= self.top_p).gather(-1, order.argsort(-1)), -torch.inf)
        return logits.log_softmax(-1)

    def draw(self, logits: Tensor, dice: Tensor) -> Tensor:
        """Codes (...) by ``dice`` (...), numbers in [0, 1): where these fall in the sum of chances."""
        sums = self.log_chances(logits).exp().double().cumsum(-1)
        return (sums <= dice[..., None].double() * sums[..., -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)

    def guided(self, told: Tensor, untold: Tensor | None) -> Tensor:
        return told if untold is None else untold + self.guidance * (told - untold)


def numbers(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Uniform numbers (B, *shape), those of each example by its own generator: the same whatever the batch.

    >>> both, one = [torch.Generator().manual_seed(s) for s in (1, 2)], [torch.Generator().manual_seed(2)]
    >>> torch.equal(numbers(both, 3)[1], numbers(one, 3)[0])
    True
    """
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


class Prior(nn.Module):
    """A distribution over codes (B, Q, *grid), given a condition.

    Attributes
    ----------
    codes : what it is over.
    listens : whether the condition can be left out, so that guidance has something to lean away from.
    """

    codes: CodeSpec
    listens: bool = False

    def count(self, recordings: Callable[[Split], Iterable[NDArray[np.int64]]]) -> None:
        """Learn before training what is learnt by counting, of codes (Q, L) of a split; most priors count nothing."""

    def forward(self, codes: Tensor, condition: Condition | None = None) -> Tensor:
        """What training raises: log p of every code given those before it, in nats (B, Q, *grid), 0 where a code is
        absent. Their sum is log p, or, of a prior that learns by hiding, an estimate of a bound from below."""
        raise NotImplementedError

    def log_prob(self, codes: Tensor, condition: Condition | None = None) -> Tensor:
        """log p(codes) (B,) in nats, of what :meth:`sample` draws at the default :class:`Drawing`."""
        return self(codes, condition).flatten(1).sum(1)

    def sample(self, grid: tuple[int, ...], condition: Condition | None, drawing: Drawing,
               generators: Sequence[torch.Generator], prime: Tensor | None = None,
               progress: Progress | None = None) -> Tensor:
        """Codes (B, Q, *grid) int64, one example a generator.

        ``prime`` (B, Q, *grid) are codes that are given, -1 where one is to be drawn; ``progress`` is told how many
        steps were drawn since it was last called.
        """
        raise NotImplementedError

    def _primed(self, grid: tuple[int, ...], count: int, prime: Tensor | None) -> Tensor:
        """What :meth:`sample` begins with (count, Q, *grid): a copy of the prime, or nothing. ShapeError on another."""
        shape = (count, len(self.codes.num_codes), *grid)
        if prime is None:
            return torch.full(shape, ABSENT)
        if prime.shape != shape:
            raise ShapeError(f"{type(self).__name__}.sample wants a prime {shape}, got {tuple(prime.shape)}.")
        return prime.clone()

    def _ears(self, drawing: Drawing) -> tuple[bool, ...]:
        """Whether the network hears the condition, each time that it is run for one draw."""
        return (True, False) if self.listens and drawing.guidance != 1 else (True,)

    def _check(self, codes: Tensor, dims: int) -> None:
        owner, sizes = type(self).__name__, self.codes.num_codes
        if codes.ndim != 2 + dims or codes.shape[1] != len(sizes) or codes.is_floating_point():
            grid = ", L" if dims == 1 else ", H, W"
            raise ShapeError(f"{owner} wants integer codes (B, Q={len(sizes)}{grid}), got {codes.dtype} "
                             f"{tuple(codes.shape)}.")
        if codes.numel() and (int(codes.min()) < ABSENT or int(codes.max()) >= max(sizes)):
            raise ShapeError(f"{owner} wants codes below {max(sizes)}, or -1 where there is none, got "
                             f"{int(codes.min())} to {int(codes.max())}: are they of another model?")


def one_size(owner: str, spec: CodeSpec) -> int:
    """K, where all quantizers have the same; ConfigError where they do not.

    >>> one_size("prior", CodeSpec(num_codes=(512, 512)))
    512
    """
    if not spec.num_codes or len(set(spec.num_codes)) > 1:
        raise ConfigError(f"{owner} wants quantizers of one size, got {spec.num_codes}: make the codebooks equal.")
    return spec.num_codes[0]
