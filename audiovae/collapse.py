"""The collapse alarm: says when a latent no longer tells anything of the data, and what to do about it."""

from collections.abc import Mapping

EARLY = 100  # steps in which a latent may still be asleep
RATE = 0.1  # nats an example below which the decoder might as well not look at the latent


def collapse_alarm(numbers: Mapping[str, float], step: int) -> str | None:
    """A line on a collapsed latent, or None; ``numbers`` are those of a validation at a step, as they are logged.

    A posterior collapses when the bound gains more from its rate than from what it says (Bowman 2016, section
    3): typically under a decoder that can do without it, or a beta that is too high. Codes collapse to one. Of a
    model of several latents the worst counts.

    >>> collapse_alarm({"rate": 0.02, "active_units": 0.0, "beta": 1.0}, step=500)[:44]
    'the latent has collapsed (rate 0.02 nats, 0 '
    """
    if step < EARLY:
        return None
    units = _least(numbers, "active_units")
    if units is not None and (units == 0 or numbers["rate"] < RATE):
        weaker = "a lower objective.rate.beta" if numbers.get("beta", 1.0) > 1 else "a weaker decoder"
        return (f"the latent has collapsed (rate {numbers['rate']:.2g} nats, {units:.0f} active units): try "
                f"objective.rate.kind free_bits, linear or constant_rate, train.encoder_steps, or {weaker}.")
    perplexity = _least(numbers, "perplexity")
    if perplexity is not None and perplexity < 1.5:
        return (f"the codes have collapsed (perplexity {perplexity:.2g}): try a later model.bottleneck.kmeans_after, "
                "model.bottleneck.standardize, or a lower learning rate.")
    return None


def _least(numbers: Mapping[str, float], name: str) -> float | None:
    """The least of a statistic over the model's latents, None where none has it."""
    return min((value for key, value in numbers.items() if key.rstrip("0123456789_") == name), default=None)
