"""How well each dimension of a code stands for one factor of variation, where the factors are known.

All take ``codes`` (N, D), posterior means as a rule, and ``factors`` (N, F), the value of every factor of the
same N examples as integers: a full table of factors, or a sample of thousands. D and F are 2 at the least. None
depends on the order or the sign of the dimensions. What each number is worth:

    mutual_information_gap   0 to 1; noise 0
    dci                      0 to 1; noise 0 in disentanglement and completeness, ``chance`` in informativeness
    factor_vae_score         1/F to 1; noise 1/F
    beta_vae_score           1/F to 1; noise 1/F, but already 1 with all factors but one in place: it asks for less

A rotated code loses in the first two. The last two read which dimension varies least, or less, and lose only as
far as the rotation blends the factors in equal parts.
"""

from dataclasses import dataclass

import numpy as np

from audiovae.errors import ShapeError
from audiovae.information import Discrete, entropy, mutual_information


@dataclass(frozen=True)
class MutualInformationGap:
    """What :func:`mutual_information_gap` finds.

    score : mean of the gaps, 0 to 1.
    gaps : (F,), of each factor.
    mutual_information : (D, F) nats, I(z_j; v_k).
    factor_entropy : (F,) nats, H(v_k): what a dimension can tell at the most.
    """

    score: float
    gaps: np.ndarray
    mutual_information: np.ndarray
    factor_entropy: np.ndarray


@dataclass(frozen=True)
class DCI:
    """What :func:`dci` finds.

    disentanglement : 0 to 1, does a dimension serve one factor only.
    completeness : 0 to 1, is a factor told by one dimension only.
    informativeness : held-out accuracy of telling the factors' values, mean over factors.
    chance : of that accuracy, by always naming the most frequent value.
    importance : (D, F), what each dimension gives to telling each factor; a column sums to 1, or to 0 where
        all codes are equal.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    chance: float
    importance: np.ndarray


@dataclass(frozen=True)
class FactorAccuracy:
    """Held-out accuracy of naming the factor that was kept fixed.

    score : ``chance`` to 1.
    chance : 1/F, what a code without information gets.
    """

    score: float
    chance: float


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> MutualInformationGap:
    """How much more the best dimension tells of a factor than the next best does, as a share of H(v).

    MIG = 1/F Σ_k (I(z_j(k); v_k) - max_{j ≠ j(k)} I(z_j; v_k)) / H(v_k)      (Chen 2018, eq. 6)

    Each dimension is cut into ``bins`` of equal width, so a factor of more values than bins cannot reach 1. The
    information is that of the counts: too high by about (bins - 1) (values - 1) / 2 N nats, which the gap
    largely cancels.

    >>> factors = np.stack(np.meshgrid(range(4), range(5)), -1).reshape(-1, 2)
    >>> round(mutual_information_gap(factors * [3.0, -0.1], factors).score, 6)
    1.0
    """
    codes, factors = _checked("mutual_information_gap", codes, factors)
    _at_least("mutual_information_gap", 2, bins=bins)
    cut = np.stack([_cut(column, bins) for column in codes.T], axis=1)
    information = np.array([[mutual_information(_joint(z, v)) for v in factors.T] for z in cut.T])
    entropies = np.array([entropy(Discrete(np.bincount(v) / len(v))) for v in factors.T])
    second, first = np.sort(information, axis=0)[-2:]
    gaps = (first - second) / entropies
    return MutualInformationGap(float(gaps.mean()), gaps, information, entropies)


def dci(codes: np.ndarray, factors: np.ndarray, trees: int = 20, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 2).

    The predictor of each factor is a random forest, one of the paper's two and fast, here as a classifier: its
    importances are the mean decrease of impurity. Every split may look at every dimension, so that one that
    says nothing earns nothing beside one that does. Half of the examples train it, the others judge it. The
    error of the paper's third measure is given as accuracy.

    >>> factors = np.random.default_rng(0).integers(4, size=(500, 2))
    >>> found = dci(factors[:, ::-1] * [3.0, -0.1], factors)
    >>> found.disentanglement, found.completeness, found.informativeness
    (1.0, 1.0, 1.0)
    """
    from sklearn.ensemble import RandomForestClassifier

    codes, factors = _checked("dci", codes, factors)
    _at_least("dci", 1, trees=trees)
    order = np.random.default_rng(seed).permutation(len(codes))
    train, test = np.array_split(order, 2)
    importance, accuracy, chance = [], [], []
    for values in factors.T:
        forest = RandomForestClassifier(trees, max_features=None, random_state=seed)  # type: ignore[arg-type]
        forest.fit(codes[train], values[train])
        importance.append(forest.feature_importances_)
        accuracy.append(np.mean(forest.predict(codes[test]) == values[test]))
        chance.append(np.bincount(values).max() / len(values))
    table = np.stack(importance, axis=1)
    weights = table.sum(1) / max(table.sum(), np.finfo(float).tiny)
    return DCI(float(weights @ _concentration(table)), float(_concentration(table.T).mean()),
               float(np.mean(accuracy)), float(np.mean(chance)), importance=table)


def factor_vae_score(codes: np.ndarray, factors: np.ndarray, votes: int = 800, batch: int = 64,
                     active: float = 0.01, seed: int = 0) -> FactorAccuracy:
    """Accuracy of a majority vote: which factor was fixed, told by the dimension that then varies least.

    A vote fixes one factor, draws ``batch`` examples that share its value, divides the variance of each dimension
    by that over all examples, and takes the least (Kim & Mnih 2018, section 4). ``votes`` of them make the
    classifier, as many more judge it. Dimensions whose variance over all examples is below ``active`` are dead
    and have no vote; the default is that of :class:`audiovae.bottlenecks.Gaussian` and suits a prior of
    variance 1. Where all are dead the score is chance.

    >>> factors = np.stack(np.meshgrid(range(4), range(5)), -1).reshape(-1, 2)
    >>> factor_vae_score(factors[:, ::-1] * [3.0, -0.5], factors)
    FactorAccuracy(score=1.0, chance=0.5)
    """
    codes, factors = _checked("factor_vae_score", codes, factors)
    _at_least("factor_vae_score", 2, votes=votes, batch=batch)
    spread = codes.var(axis=0)
    alive = spread > active
    dice = np.random.default_rng(seed)
    fixed = dice.integers(factors.shape[1], size=2 * votes)
    least = np.zeros(2 * votes, dtype=np.int64)
    for k in range(factors.shape[1]) if alive.any() else ():
        rows = _alike(factors[:, k], dice.integers(len(codes), size=np.sum(fixed == k)), batch, dice)
        least[fixed == k] = np.argmin(codes[rows][..., alive].var(axis=1) / spread[alive], axis=1)
    counts = np.zeros((codes.shape[1], factors.shape[1]), dtype=np.int64)
    np.add.at(counts, (least[:votes], fixed[:votes]), 1)
    return FactorAccuracy(float(np.mean(counts.argmax(1)[least[votes:]] == fixed[votes:])), 1 / factors.shape[1])


def beta_vae_score(codes: np.ndarray, factors: np.ndarray, points: int = 800, pairs: int = 64,
                   seed: int = 0) -> FactorAccuracy:
    """Accuracy of a linear classifier: which factor did the two of each pair share (Higgins 2017, section 3).

    A point fixes one factor, draws ``pairs`` that share its value, and is the mean of |z_1 - z_2|. ``points`` of
    them train a logistic regression, as many more judge it.

    >>> factors = np.stack(np.meshgrid(range(4), range(5)), -1).reshape(-1, 2)
    >>> beta_vae_score(factors * [3.0, -0.1], factors)
    FactorAccuracy(score=1.0, chance=0.5)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    codes, factors = _checked("beta_vae_score", codes, factors)
    _at_least("beta_vae_score", factors.shape[1], points=points)
    _at_least("beta_vae_score", 1, pairs=pairs)
    dice = np.random.default_rng(seed)
    fixed = np.arange(2 * points) % factors.shape[1]
    apart = np.empty((2 * points, codes.shape[1]))
    for k in range(factors.shape[1]):
        ours = dice.integers(len(codes), size=(np.sum(fixed == k), pairs))
        theirs = _alike(factors[:, k], ours.ravel(), 1, dice).reshape(ours.shape)
        apart[fixed == k] = np.abs(codes[ours] - codes[theirs]).mean(axis=1)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))  # scaling is linear too
    classifier.fit(apart[:points], fixed[:points])
    return FactorAccuracy(float(classifier.score(apart[points:], fixed[points:])), 1 / factors.shape[1])


def _alike(values: np.ndarray, rows: np.ndarray, count: int, dice: np.random.Generator) -> np.ndarray:
    """(len(rows), count) indices of examples, drawn with replacement, that share the row's entry of ``values``."""
    order = np.argsort(values, kind="stable")
    first = np.searchsorted(values[order], values[rows])
    past = np.searchsorted(values[order], values[rows], side="right")
    return order[dice.integers(first[:, None], past[:, None], size=(len(rows), count))]


def _concentration(table: np.ndarray) -> np.ndarray:
    """1 - H / log n for each row (n,) taken as chances: 1 where one entry has it all, 0 where all are equal or 0."""
    sums = table.sum(axis=1, keepdims=True)
    chances = np.where(sums > 0, table / np.where(sums > 0, sums, 1), 1 / table.shape[1])
    return np.array([1 - entropy(Discrete(row)) / np.log(len(row)) for row in chances])


def _cut(column: np.ndarray, bins: int) -> np.ndarray:
    """Which of ``bins`` of equal width each value is in; one that is constant is all in one."""
    width = (column.max() - column.min()) / bins
    return np.minimum((column - column.min()) / (width or 1.0), bins - 1).astype(np.int64)


def _joint(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Table of how often each pair of values from 0 up occurs, as shares of all."""
    counts = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(counts, (a, b), 1)
    return counts / len(a)


def _at_least(owner: str, least: int, **counts: int) -> None:
    for name, count in counts.items():
        if count < least:
            raise ShapeError(f"{owner} wants at least {least} {name}, got {count}.")


def _checked(owner: str, codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes as float64 and factors as values from 0 up."""
    codes, factors = np.asarray(codes, dtype=np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or min(*codes.shape, factors.shape[1]) < 2:
        raise ShapeError(f"{owner} wants codes (N, D) and factors (N, F) of the same N, all at least 2, got "
                         f"{codes.shape} and {factors.shape}.")
    if not np.isfinite(codes).all() or not np.issubdtype(factors.dtype, np.integer):
        raise ShapeError(f"{owner} wants finite codes and integer factors, got factors of {factors.dtype}: number "
                         "the values of each factor.")
    ranked = np.stack([np.unique(column, return_inverse=True)[1] for column in factors.T], axis=1)
    if (still := np.flatnonzero(ranked.max(axis=0) == 0)).size:
        raise ShapeError(f"{owner} wants factors that vary, but number {still[0]} has one value only: leave it out.")
    return codes, ranked
