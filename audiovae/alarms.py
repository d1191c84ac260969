"""Alarms in training: a latent that no longer tells anything of the data, steps left out; and what to do about them."""

from collections.abc import Mapping

EARLY = 100  # steps in which a latent may still be asleep
SILENT = 0.01  # nats an example below which a group of a ladder says nothing
RATE = 0.1  # nats an example below which the decoder might as well not look at the latent


def collapse_alarm(numbers: Mapping[str, float], step: int) -> str | None:
    """A line on a collapsed latent, or None; ``numbers`` are those of a validation at a step, as they are logged.

    A posterior collapses when the bound gains more from its rate than from what it says (Bowman 2016, section
    3): typically under a decoder that can do without it, or a beta that is too high. Codes collapse to one. Of a
    model of several latents those that say nothing are named; of several levels of codes the worst counts.

    >>> collapse_alarm({"rate": 0.02, "active_units": 0.0, "beta": 1.0}, step=500)[:44]
    'the latent has collapsed (rate 0.02 nats, 0 '
    """
    if step < EARLY:
        return None
    units, nats = _of_levels(numbers, "active_units"), _of_levels(numbers, "kl")
    silent = sorted(level for level, count in units.items() if (nats[level] < SILENT if level in nats else count == 0))
    if units and (len(silent) == len(units) or numbers["rate"] < RATE):
        heavy = numbers.get("beta", 1.0) > 1
        weaker = "a lower objective.rate.beta, or gamma where that weighs the rate" if heavy else "a weaker decoder"
        return (f"the latent has collapsed (rate {numbers['rate']:.2g} nats, {sum(units.values()):.0f} active units): "
                f"try objective.rate.kind free_bits, linear or constant_rate, train.encoder_steps, or {weaker}.")
    if silent:
        return (f"{len(silent)} of {len(units)} groups of latents say nothing (levels {', '.join(map(str, silent))}): "
                "try objective.rate.kind balanced or free_bits, or fewer groups.")
    perplexity = min(_of_levels(numbers, "perplexity").values(), default=None)
    if perplexity is not None and perplexity < 1.5:
        return (f"the codes have collapsed (perplexity {perplexity:.2g}): try a later model.bottleneck.kmeans_after, "
                "model.bottleneck.standardize, or a lower learning rate.")
    return None


def steep_alarm(skipped: int, steps: int) -> str | None:
    """A line where more than half of all ``steps`` were left out for their gradient, or None.

    >>> steep_alarm(skipped=90, steps=100)
    '90 of 100 steps were left out: set train.skip_grad_norm well above the grad_norm of the log.'
    """
    if 2 * skipped <= steps:
        return None
    return f"{skipped} of {steps} steps were left out: set train.skip_grad_norm well above the grad_norm of the log."


def _of_levels(numbers: Mapping[str, float], name: str) -> dict[int, float]:
    """A statistic by level, of those of the model's latents that have it."""
    found = {key.removeprefix(name).lstrip("_") or "0": value for key, value in numbers.items() if key.startswith(name)}
    return {int(level): value for level, value in found.items() if level.isdigit()}
