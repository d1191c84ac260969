"""What each group of a ladder's latents does: its nats, its active units, and which are not in use."""

from collections.abc import Sequence

import torch

from audiovae.bottlenecks.gaussian import ACTIVE
from audiovae.report import Table
from audiovae.shapes import Latent

SILENT = 0.01  # nats an example below which a group is not in use


class GroupUse:
    """Sums over the examples seen so far, of one group.

    >>> from audiovae.bottlenecks import GaussianConfig
    >>> use = GroupUse()
    >>> use.add(GaussianConfig(dim=2).build(dims=1)(torch.tensor([[[3.0], [0.0], [0.0], [0.0]]]).repeat(4, 1, 5)))
    >>> use.nats, use.active, use.numbers  # ½ 3² at each of 5 places, always the same
    (22.5, 0, 10)
    """

    def __init__(self) -> None:
        self.numbers = self.examples = self.places = 0
        self.rate = self.kl = self.first = self.second = torch.zeros((), dtype=torch.float64)

    def add(self, latent: Latent) -> None:
        """Take in a batch; what a flow has bent is told by its drawn numbers in place of its means."""
        at = (latent.z if latent.posterior is None else latent.posterior.mean).double().transpose(0, 1).flatten(1).cpu()
        self.numbers = latent.z[0].numel()
        self.examples, self.places = self.examples + len(latent.z), self.places + at.shape[1]
        self.rate = self.rate + latent.rate.double().sum().cpu()
        if latent.rate_map is not None:
            self.kl = self.kl + latent.rate_map.double().transpose(0, 1).flatten(1).sum(1).cpu()
        self.first, self.second = self.first + at.sum(1), self.second + at.square().sum(1)

    @property
    def nats(self) -> float:
        """Of an example, in the mean."""
        return float(self.rate / self.examples)

    @property
    def nats_of_dimensions(self) -> torch.Tensor:
        """(D,) nats of an example; one number without a meaning where the KL has no closed form."""
        return self.kl / self.examples

    @property
    def active(self) -> int:
        """Dimensions whose mean, in units of the prior, varies over examples and grid (variance above 0.01)."""
        return int((self.second / self.places - (self.first / self.places).square() > ACTIVE).sum())


def group_table(groups: Sequence[GroupUse]) -> Table:
    """One row a group, level 0 first."""
    rows = [(level, use.numbers, use.nats, use.active, len(use.first)) for level, use in enumerate(groups)]
    return Table(("group (level)", "numbers", "KL, nats", "active units", "of dimensions"), rows)


def silent(groups: Sequence[GroupUse]) -> list[int]:
    """Levels of the groups that say less than 0.01 nats of an example."""
    return [level for level, use in enumerate(groups) if use.nats < SILENT]
