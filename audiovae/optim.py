"""What the loop needs around AdamW: groups with their own rates, the schedule, averaged weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiovae.discriminators import Adversary
from audiovae.models import Model, Multires
from audiovae.objectives import Loss

NEARLY = 1e-5  # this near to the limit torch's own rounding decides whether a gradient is clipped


def parameter_groups(model: nn.Module, lr: float, encoder_lr: float | None = None, embedding_lr: float | None = None
                     ) -> list[dict[str, Any]]:
    """The parameters of what infers the latent, if anything does, at ``encoder_lr``, tables of learned vectors at
    ``embedding_lr``, all others at ``lr``; ``base_lr`` is the peak."""
    inferring = {id(p) for part in inference(model) for p in part.parameters()}
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)} if embedding_lr else set()
    tables -= inferring
    groups = [([p for p in model.parameters() if id(p) in inferring], encoder_lr or lr),
              ([p for p in model.parameters() if id(p) in tables], embedding_lr),
              ([p for p in model.parameters() if id(p) not in inferring | tables], lr)]
    return [{"params": params, "lr": rate, "base_lr": rate} for params, rate in groups if params]


def inference(model: nn.Module) -> list[nn.Module]:
    """What makes q(z|x) of the data: encoder, flow of the posterior, and where a label is a latent its classifier."""
    parts = (getattr(model, "encoder", None), getattr(getattr(model, "bottleneck", None), "flow", None),
             getattr(model, "classifier", None))
    return [part for part in parts if part is not None]


def apart(model: Model, trainee: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters whose gradients are clipped together: all, or those of each level that is a model of its own."""
    if isinstance(model, Multires):
        return [list(level.parameters()) for level in model.each]
    return [list(trainee.parameters())]


def hold_all_but_encoder(optimizer: torch.optim.Optimizer) -> None:
    """Drop the gradients of every group but the first, of what infers: the next step leaves their weights alone."""
    for group in optimizer.param_groups[1:]:
        for parameter in group["params"]:
            parameter.grad = None


def clip(parameters: list[nn.Parameter], limit: float) -> float:
    """Shorten the gradient of all the parameters together to the norm ``limit``; the norm it had.

    As torch's ``clip_grad_norm_``, but a gradient that is short enough is not gone through a second time.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip([weight], limit=1.0), weight.grad
    (5.0, tensor([0.6000, 0.8000]))
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    length = float(norm)
    if not length < (1 - NEARLY) * limit:  # NaN goes the long way too
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return length


def learning_rate(kind: Literal["cosine", "constant"], warmup: float, progress: float) -> float:
    """Factor on the peak rate at ``progress`` in [0, 1]: a linear rise, then constant or half a cosine.

    >>> [round(learning_rate("cosine", 0.1, p), 2) for p in (0, 0.05, 0.1, 0.55, 1)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    if kind == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class Average:
    """An exponential moving average of a model's parameters; buffers are the model's own.

    avg_t = d_t avg_{t-1} + (1 - d_t) p_t with d_t = min(decay, t / (t + 10)), so that early averages
    follow the weights instead of the initialisation. ``decay`` 0 keeps no average.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.count = model, decay, 0
        self.values = {n: p.detach().clone() for n, p in model.named_parameters()} if decay else {}
        self.watch()

    def watch(self) -> None:
        """Look for the model's parameters anew: once they lie elsewhere, as in a group of processes."""
        self.present = [p.detach() for p in self.model.parameters()]  # views: walking all modules takes time a step

    def update(self) -> None:
        """Take the model's present parameters into the average."""
        if not self.decay:
            return
        self.count += 1
        weight = 1 - min(self.decay, self.count / (self.count + 10))
        torch._foreach_lerp_(list(self.values.values()), self.present, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model holds the averaged parameters."""
        parameters = dict(self.model.named_parameters())
        kept = {n: parameters[n].detach().clone() for n in self.values}
        try:
            for name, value in self.values.items():
                parameters[name].data.copy_(value)
            yield
        finally:
            for name, value in kept.items():
                parameters[name].data.copy_(value)

    def state(self) -> dict[str, Tensor]:
        return {**self.values, "count": torch.tensor(self.count)} if self.decay else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        if self.decay:
            self.count = int(state["count"])
            for name, value in self.values.items():
                value.copy_(state[name])


@dataclass
class Rival:
    """An adversary in training: its optimizer, the decoder's last layer, and the step from which it has a say."""

    adversary: Adversary
    optimizer: torch.optim.Optimizer
    last: nn.Parameter
    starts: int

    def join(self, loss: Loss, real: Tensor) -> None:
        """Add the adversary's terms to what the model minimises, balanced with all it minimises so far."""
        assert loss.estimate is not None
        term, log = self.adversary.weighed(loss.total, real, loss.estimate, self.last)
        loss.total, loss.terms = loss.total + term, loss.terms | log
