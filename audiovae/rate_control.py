"""Rate control: how much a latent's rate weighs in training, as a function of how far training is.

Each takes the latents of all levels and the share of training done, and gives the penalty in nats per
example, averaged over the batch. Only here does ``beta`` mean anything: it weighs a rate, nothing else.
A rate that no decoder can undercut (δ-VAE) is the posterior's own: ``committed`` of the Gaussian bottleneck.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from audiovae.bottlenecks.ranks import all_sum
from audiovae.errors import ConfigError
from audiovae.shapes import Latent


class RateControl(nn.Module):
    """Penalty beta(progress) * rate, the rate summed over levels: the contract, and the plain case.

    Subclasses change :meth:`weight`, or what is weighed. What one learns in training is a buffer, saved with
    the run.

    >>> latent = Latent(z=torch.zeros(2, 4, 10), rate=torch.tensor([30.0, 50.0]))
    >>> RateControl(beta=0.5)([latent, latent], progress=0.3)
    tensor(40.)
    """

    def __init__(self, beta: float = 1.0):
        super().__init__()
        if not beta >= 0:
            raise ConfigError(f"{type(self).__name__} wants beta of at least 0, got {beta:g}.")
        self.beta = beta

    def weight(self, progress: float) -> float:
        """beta after the share ``progress`` of training, from 0 to 1."""
        return self.beta

    def forward(self, latents: Sequence[Latent], progress: float) -> Tensor:
        return self.weight(progress) * sum_of_levels(latents)

    def total(self, distortion: Tensor, latents: Sequence[Latent], progress: float, dims: int) -> Tensor:
        """What is minimised, nats per example: the distortion, of ``dims`` data dimensions, and the penalty."""
        return distortion + self(latents, progress)


class Linear(RateControl):
    """beta rises from 0 to its value over the first ``until`` of training (Bowman 2016, section 3.1).

    >>> [Linear(beta=1.0, until=0.5).weight(p) for p in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, beta: float = 1.0, until: float = 0.1):
        super().__init__(beta)
        self.until = _share("Linear", "until", until)

    def weight(self, progress: float) -> float:
        return self.beta * min(progress / self.until, 1.0)


class Cyclical(RateControl):
    """beta rises from 0 to its value over the first ``rise`` of each of several cycles (Fu 2019, eq. 6-7).

    >>> control = Cyclical(beta=1.0, cycles=2, rise=0.5)
    >>> [control.weight(p) for p in (0.0, 0.125, 0.25, 0.49, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 1.0]
    """

    def __init__(self, beta: float = 1.0, cycles: int = 4, rise: float = 0.5):
        super().__init__(beta)
        if cycles < 1:
            raise ConfigError(f"Cyclical wants at least one cycle, got {cycles}.")
        self.cycles, self.rise = cycles, _share("Cyclical", "rise", rise)

    def weight(self, progress: float) -> float:
        phase = progress * self.cycles % 1 if progress < 1 else 1.0  # training ends at the end of a cycle
        return self.beta * min(phase / self.rise, 1.0)


class Balanced(Linear):
    """Linear, and while beta still rises a latent that spends more for its size is weighed more: Σ γ_l rate_l.

    γ_l is the rate of level l over the numbers in its latent, their mean over levels made 1, without a gradient: no
    group of a ladder goes silent before the others have found their use for it (Vahdat & Kautz 2020, appendix A).

    >>> latents = [Latent(torch.zeros(1, n, 1), torch.tensor([r])) for n, r in ((4, 12.0), (4, 4.0))]
    >>> [round(float(Balanced(until=0.5)(latents, p)), 2) for p in (0.25, 0.5)]  # γ = 1.5 and 0.5, then 1 and 1
    [10.0, 16.0]
    """

    LEAST = 0.01  # nats: a silent level keeps a little weight

    def forward(self, latents: Sequence[Latent], progress: float) -> Tensor:
        if progress >= self.until or not latents:
            return super().forward(latents, progress)
        rates = torch.stack([latent.rate.mean() for latent in latents])
        sizes = rates.new_tensor([latent.z[0].numel() for latent in latents])
        share = (rates.detach().abs() + self.LEAST) / sizes
        return self.weight(progress) * (share / share.mean() * rates).sum()


class FreeBits(RateControl):
    """Σ_j max(λ, rate_j): a group j of latent numbers is not pressed below λ nats (Kingma 2016, eq. 15).

    rate_j is the mean over the batch, so a group whose mean is below λ has no gradient from here.

    Parameters
    ----------
    nats : λ of each group, in nats per example.
    per : what a group is: "channel" one of D, over the whole grid (the paper's); "element" one number at
        one place of the grid; "level" all of a level's latent.

    Raises ConfigError on a latent that does not say where its rate is spent: codes have a constant rate.

    >>> latent = Latent(torch.zeros(1, 2, 1), torch.tensor([3.1]), rate_map=torch.tensor([[[0.1], [3.0]]]))
    >>> FreeBits(nats=0.5)([latent], progress=0.0)
    tensor(3.5000)
    """

    def __init__(self, nats: float = 0.5, per: Literal["channel", "element", "level"] = "channel",
                 beta: float = 1.0):
        super().__init__(beta)
        if not nats >= 0:
            raise ConfigError(f"FreeBits wants at least 0 nats, got {nats:g}.")
        self.nats, self.per = nats, per

    def forward(self, latents: Sequence[Latent], progress: float) -> Tensor:
        _check_some(latents, "free_bits")
        rates = [self._groups(latent).clamp(min=self.nats).sum() for latent in latents]
        return self.weight(progress) * torch.stack(rates).sum()

    def _groups(self, latent: Latent) -> Tensor:
        if latent.rate_map is None and latent.log_ratio is not None:
            raise ConfigError("rate control 'free_bits' wants a rate that is known in closed form, number by number, "
                              "as of a standard prior and a diagonal posterior and no sum over labels: take another.")
        if latent.rate_map is None:
            raise ConfigError("rate control 'free_bits' wants a bottleneck whose rate can change, such as "
                              "the Gaussian; this one's is constant: take kind 'constant'.")
        mean = latent.rate_map.mean(0)
        return {"element": mean, "channel": mean.flatten(1).sum(1), "level": mean.sum()}[self.per]


def _check_some(latents: Sequence[Latent], kind: str) -> None:
    if not latents:
        raise ConfigError(f"rate control '{kind}' wants a model with a latent, and this one has none: take kind "
                          "'constant'.")


class Target(RateControl):
    """gamma * |rate - C|, with C rising from 0 to ``nats`` over the first ``until`` of training.

    Burgess 2018, eq. 4; with ``until`` 0 the rate is held at a constant from the start (Alemi 2018, section 4).

    >>> latent = Latent(torch.zeros(1, 2, 1), torch.tensor([30.0]))
    >>> [float(Target(nats=20.0, gamma=10.0, until=0.5)([latent], p)) for p in (0.0, 0.5, 1.0)]
    [300.0, 100.0, 100.0]
    """

    def __init__(self, nats: float, gamma: float = 1.0, until: float = 0.0):
        super().__init__(gamma)
        if not nats >= 0 or not 0 <= until <= 1:
            raise ConfigError(f"Target wants a rate of at least 0 nats and until from 0 to 1, got {nats:g}, {until:g}.")
        self.nats, self.until = nats, until

    def capacity(self, progress: float) -> float:
        """C, nats per example."""
        return self.nats * (min(progress / self.until, 1.0) if self.until else 1.0)

    def forward(self, latents: Sequence[Latent], progress: float) -> Tensor:
        return self.beta * (sum_of_levels(latents) - self.capacity(progress)).abs()


class TotalCorrelation(RateControl):
    """rate + (beta - 1) * TC: only the dependence between the dimensions of z is weighed (β-TCVAE, Chen 2018, eq. 4).

    TC = KL(q(z) || Π_j q(z_j)) is estimated from the batch (minibatch-weighted sampling, section 3.2). The
    size of the training set is only a constant there, without a gradient, and is taken as that of the batch:
    the value is an estimate for the batch, its gradient that of the paper.

    Raises ConfigError on a latent that was not drawn from a diagonal normal.

    >>> from audiovae.shapes import Posterior
    >>> posterior = Posterior(torch.randn(64, 3, 1), torch.full((64, 3, 1), -4.0))
    >>> latent = Latent(posterior.mean, torch.ones(64), posterior=posterior)
    >>> TotalCorrelation(beta=1.0)([latent], progress=0.0)
    tensor(1.)
    """

    def forward(self, latents: Sequence[Latent], progress: float) -> Tensor:
        _check_some(latents, "total_correlation")
        extra = [total_correlation(latent) for latent in latents] if self.beta != 1 else [torch.zeros(())]
        return sum_of_levels(latents) + (self.beta - 1) * torch.stack(extra).sum()


class Geco(RateControl):
    """The least rate at which the distortion reaches ``target`` nats per data dimension (GECO, Rezende & Viola 2018).

    A multiplier λ weighs the distortion; it grows by exp(speed * error) a step while the averaged error
    (distortion per dimension - target) is positive, and shrinks while it is negative (section 3, algorithm 1).
    Weights are λ / (1 + λ) and 1 / (1 + λ), the same minimum as λ and 1 at any size of λ. :meth:`weight` is 1 / λ.

    >>> control = Geco(target=0.1, speed=1.0)
    >>> latent = Latent(torch.zeros(1, 2, 1), torch.tensor([30.0]))
    >>> _ = control.total(torch.tensor(50.0), [latent], progress=0.0, dims=100)  # 0.5 nats a dimension: too many
    >>> control.weight(0.0) < 1
    True
    """

    DECAY = 0.9  # of the averaged error; a longer memory overshoots
    LIMIT = 20.0  # of |log λ|: past it the other term has no say at all
    log_multiplier: Tensor
    error: Tensor
    steps: Tensor

    def __init__(self, target: float, speed: float = 0.1):
        super().__init__()
        if not speed > 0:
            raise ConfigError(f"Geco wants a speed above 0, got {speed:g}.")
        self.target, self.speed = target, speed
        for name in ("log_multiplier", "error", "steps"):
            self.register_buffer(name, torch.zeros(()))

    def weight(self, progress: float) -> float:
        return float((-self.log_multiplier).exp())

    def total(self, distortion: Tensor, latents: Sequence[Latent], progress: float, dims: int) -> Tensor:
        if self.training:
            self._update(distortion.detach() / dims - self.target)
        share = self.log_multiplier.sigmoid()
        return share * distortion + (1 - share) * sum_of_levels(latents)

    @torch.no_grad()
    def _update(self, error: Tensor) -> None:
        self.steps += 1
        error = all_sum(error.clone()) / all_sum(torch.ones_like(error))  # the mean of all processes
        self.error.lerp_(error, (1 / self.steps).clamp(min=1 - self.DECAY))
        self.log_multiplier.add_(self.speed * self.error).clamp_(-self.LIMIT, self.LIMIT)


def total_correlation(latent: Latent) -> Tensor:
    """KL(q(z) || Π_j q(z_j)) in nats, from the batch's own posteriors as the mixture q(z): a scalar.

    Each element of the grid is a dimension j of its own. Costs memory for B² D values.
    """
    if latent.posterior is None:
        raise ConfigError("rate control 'total_correlation' wants a latent drawn from a diagonal normal, such as the "
                          "Gaussian bottleneck's: take kind 'constant'.")
    mean, log_variance = (part.flatten(1) for part in latent.posterior)
    z, count = latent.z.flatten(1), len(mean)
    standard = (z[:, None] - mean) * (-0.5 * log_variance).exp()
    log_density = -0.5 * (standard.square() + log_variance + math.log(2 * math.pi))  # (B of z, B of q, D)
    joint = log_density.sum(2).logsumexp(1) - math.log(count)
    marginals = (log_density.logsumexp(1) - math.log(count)).sum(1)
    return (joint - marginals).mean()


def sum_of_levels(latents: Sequence[Latent]) -> Tensor:
    """Nats per example of all levels together, averaged over the batch; 0 of none."""
    rates = [latent.rate.mean() for latent in latents]
    return rates[0] if len(rates) == 1 else torch.stack(rates).sum() if rates else torch.zeros(())


def _share(owner: str, name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise ConfigError(f"{owner} wants {name} as a share of training above 0 and up to 1, got {value:g}.")
    return value
