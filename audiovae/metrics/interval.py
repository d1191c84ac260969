"""A mean with what is known of it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from audiovae.errors import ShapeError


@dataclass(frozen=True)
class Interval:
    """A mean and half the width of its confidence interval, in the unit of what was averaged.

    As text, the width has two digits where it starts with 1 to 3, else one: the rest would be chance.

    half_width : NaN where it is not known: one value only, or values that are not finite.
    count : how many values the mean is over.

    >>> print(Interval(mean=12.3456, half_width=0.4321, count=40))
    12.3 ± 0.4
    """

    mean: float
    half_width: float
    count: int

    def __str__(self) -> str:
        if not math.isfinite(self.half_width):
            return f"{self.mean:.3g}"
        if self.half_width <= 1e-12 * abs(self.mean):  # equal values, but for rounding
            return f"{self.mean:.2f} ± 0.00"
        power = math.floor(math.log10(self.half_width))
        digits = max(0, (0 if self.half_width / 10**power >= 3.5 else 1) - power)
        return f"{self.mean:.{digits}f} ± {self.half_width:.{digits}f}"


def mean_interval(values: Iterable[float], confidence: float = 0.95, sizes: Iterable[float] | None = None) -> Interval:
    """Mean of independent values with Student's t interval: t(n - 1) times s / √n on either side.

    The values should be of independent units, such as one for each recording, or better one for each speaker. Where
    these have ``sizes``, the mean is over all that they hold, Σ size value / Σ size, and s is the deviation of
    size (value - mean) over the mean size, as of a ratio of two means (Cochran 1977, chapter 6).

    Raises ShapeError without a value.

    >>> mean_interval([1.0, 2.0, 3.0])                          # t(2) = 4.303, s = 1
    Interval(mean=2.0, half_width=2.484..., count=3)
    >>> print(mean_interval([1.0, 5.0, 5.0, 5.0], sizes=[10, 1000, 1000, 1000]))
    4.99 ± 0.06
    """
    array = np.array([float(value) for value in values])
    count = len(array)
    if count == 0:
        raise ShapeError("mean_interval wants at least one value, got none.")
    if sizes is not None:
        size = np.array([float(value) for value in sizes])
        mean = float(np.average(array, weights=size))
        around = mean_interval(size / size.mean() * (array - mean), confidence)
        return Interval(mean, around.half_width, count)
    if count == 1 or not np.isfinite(array).all():
        with np.errstate(invalid="ignore"):  # inf - inf: the mean is honestly not a number
            return Interval(float(array.mean()), math.nan, count)
    half = t.ppf((1 + confidence) / 2, count - 1) * array.std(ddof=1) / math.sqrt(count)
    return Interval(float(array.mean()), float(half), count)
