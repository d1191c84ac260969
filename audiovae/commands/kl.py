"""audiovae kl: how far one distribution is from another, term by term, and the same by numerical integration."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tyro

from audiovae.commands.arguments import parse
from audiovae.errors import ConfigError
from audiovae.information import NATS, DiagonalNormal, Discrete, Unit, cross_entropy, entropy, gaussian_terms, kl

NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(\^2)?", re.IGNORECASE)
NORMAL = re.compile(r"N\((\[.*?\]|[^,\[\]]+),(\[.*?\]|[^,\[\]]+)\)", re.IGNORECASE)
FAR = 12  # standard deviations: what lies beyond weighs e^-72


@dataclass(frozen=True)
class Arguments:
    """Tell KL(p || q), the terms it is the sum of, and what numerical integration finds.

    A normal is N(mean,variance), and the variance may be written s^2: N(6,4^2). Several that are independent
    are N([0,1],[1,2^2]). The chances of outcomes are [0.2,0.8].

    Example: audiovae kl "N(6,4^2)" "N(0,1)"
    """

    p: tyro.conf.Positional[str]
    """What the data follow."""
    q: tyro.conf.Positional[str]
    """What they are taken to follow."""
    unit: Unit = "nats"
    """What the terms are in; the divergence itself is told in both."""


def main(argv: list[str]) -> int:
    arguments = parse("kl", Arguments, argv)
    p, q, unit = read(arguments.p), read(arguments.q), arguments.unit
    divergence = kl(p, q)
    both = [f"{divergence / NATS[name]:.4g} {name}" for name in sorted(NATS, key=lambda name: name != unit)]
    print(f"KL({arguments.p} || {arguments.q}) = {' = '.join(both)}\n")
    for name, formula, nats in terms(p, q):
        print(f"  {name:<26}{formula:<44}{nats / NATS[unit]:>13.6g} {unit}")
    print(f"\n  The other way round, KL(q || p), it is {kl(q, p, unit):.4g} {unit}.")
    return 0


def terms(p: Discrete | DiagonalNormal, q: Discrete | DiagonalNormal) -> Iterator[tuple[str, str, float]]:
    """What KL(p || q) is the sum of, the sum, and the check: name, formula and nats of each."""
    if isinstance(p, Discrete):
        yield "cross-entropy H(p, q)", "sum of -p log q", cross_entropy(p, q)
        yield "minus entropy H(p)", "sum of p log p", 0.0 - entropy(p)
        yield "sum", "q rules out what p does not" if math.isinf(kl(p, q)) else "", kl(p, q)
        return
    assert isinstance(q, DiagonalNormal)
    parts = gaussian_terms(p, q)
    yield "log ratio of scales", "log(s_q / s_p)", parts.log_ratio
    yield "variance ratio", "((s_p / s_q)^2 - 1) / 2", parts.variance_ratio
    yield "mean shift", "((m_p - m_q) / s_q)^2 / 2", parts.mean_shift
    yield "sum", f"over {len(p.mean)} dimensions" if len(p.mean) > 1 else "", parts.total
    if math.isfinite(parts.total):
        yield "by numerical integration", "of p(x) log(p(x) / q(x)) over x", integral(p, q)


def integral(p: DiagonalNormal, q: DiagonalNormal) -> float:
    """KL(p || q) in nats by adaptive quadrature, one dimension after the other: independent parts add up.

    >>> round(integral(DiagonalNormal(6, 4), DiagonalNormal(0, 1)), 4)
    24.1137
    """
    from scipy.integrate import quad
    from scipy.stats import norm

    total = 0.0
    for ours, theirs in zip(zip(p.mean, p.std, strict=True), zip(q.mean, q.std, strict=True), strict=True):
        def density(t: float, ours=ours, theirs=theirs) -> float:
            x = ours[0] + ours[1] * t  # t in standard deviations of p, so that quadrature sees the bulk
            return float(norm.pdf(t) * (norm.logpdf(x, *ours) - norm.logpdf(x, *theirs)))

        total += quad(density, -FAR, FAR, epsabs=1e-12, epsrel=1e-10, limit=200)[0]
    return total


def read(text: str) -> Discrete | DiagonalNormal:
    """The distribution that a text names; ConfigError where it names none.

    >>> read("N(6, 4^2)").std, read("[0.2, 0.8]").p
    (array([4.]), array([0.2, 0.8]))
    """
    compact = "".join(text.split())
    if compact.startswith("[") and compact.endswith("]"):
        return Discrete(numbers(compact, text))
    found = NORMAL.fullmatch(compact)
    if not found:
        raise ConfigError(f"'{text}' is no distribution: write N(mean,variance), as in N(6,4^2) or N([0,1],[1,4]), or "
                          "chances, as in [0.2,0.8].")
    mean, variance = (numbers(part, text) for part in found.groups())
    if len(mean) != len(variance) or variance.min() <= 0:
        raise ConfigError(f"'{text}' wants as many variances as means, all above 0, got {len(mean)} means "
                          f"and {len(variance)} variances from {variance.min():g} up.")
    return DiagonalNormal(mean, np.sqrt(variance))


def numbers(listed: str, text: str) -> np.ndarray:
    """One number or several in brackets, each perhaps squared, as (D,); ConfigError quoting ``text``."""
    values = []
    for word in listed.removeprefix("[").removesuffix("]").split(","):
        found = NUMBER.fullmatch(word)
        if not found:
            raise ConfigError(f"'{text}' has '{word}' where a number belongs, such as 0.5, -3 or 4^2.")
        value = float(found[1])
        values.append(value * abs(value) if found[2] else value)  # -4^2 is -16, as in arithmetic, and no variance
    return np.array(values)
