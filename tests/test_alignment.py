"""Alignment against every monotonic path there is, and against made speech whose segments are known."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audiovae.audio.alignment import HOP, RATE, Chain, PhoneModel, align, cepstra
from audiovae.errors import ShapeError


def paths(length: int, optional: list[bool]):
    """Every path by trying all sequences of states against the rules, one step at a time."""
    count = len(optional)
    for path in product(range(count), repeat=length):
        visited = [s for s, before in zip(path, (-1, *path), strict=False) if s != before]
        if path == tuple(sorted(path)) and all(s in visited for s in range(count) if not optional[s]):
            yield path


@pytest.mark.parametrize("seed", range(8))
def test_the_path_is_the_best_of_all(seed):
    random = np.random.default_rng(seed)
    chains = [[bool(random.integers(2)) and n % 2 == seed % 2 for n in range(states)] for states in (2, 3, 4, 5)]
    frames = [int(random.integers(max(1, chain.count(False)), 7)) for chain in chains]
    scores = torch.randn(4, max(frames), 5, generator=torch.Generator().manual_seed(seed))
    optional = torch.zeros(4, 5, dtype=torch.bool)
    for row, chain in enumerate(chains):
        optional[row, :len(chain)] = torch.tensor(chain)
    found = align(scores, optional, torch.tensor(frames), torch.tensor([len(chain) for chain in chains]))
    for row, (length, chain) in enumerate(zip(frames, chains, strict=True)):
        total = {path: float(scores[row, range(length), path].sum()) for path in paths(length, chain)}
        path = tuple(found[row, :length].tolist())
        assert path in total, "a path that breaks the rules"
        assert total[path] == pytest.approx(max(total.values()), abs=1e-5)
        assert (found[row, length:] == found[row, length - 1]).all()


def test_more_states_than_frames_are_refused():
    with pytest.raises(ShapeError, match="got 2 frames for 3 states in row 1"):
        align(torch.zeros(2, 4, 3), torch.zeros(2, 3, dtype=torch.bool), torch.tensor([4, 2]), torch.tensor([3, 3]))


PHONES = 5  # the first is silence


def spoken(seed: int) -> tuple[torch.Tensor, Chain, torch.Tensor]:
    """A made recording: each phone is noise about two formants of its own for 60 to 160 ms, words parted at whim."""
    random = np.random.default_rng(seed)
    said, optional, segments = [0], [True], [(0, random.integers(8, 20))]
    for _ in range(4):
        for phone in random.permutation(np.arange(1, PHONES))[:random.integers(2, 4)]:
            said, optional = [*said, int(phone)], [*optional, False]
            segments.append((int(phone), random.integers(6, 17)))
        said, optional = [*said, 0], [*optional, True]
        if random.random() < 0.5:
            segments.append((0, random.integers(8, 20)))
    truth = np.concatenate([np.full(n, phone) for phone, n in segments])
    noise = random.standard_normal(len(truth) * HOP)
    bins = np.fft.rfftfreq(len(noise), 1 / RATE)
    wave = 1e-3 * noise
    for phone in range(1, PHONES):
        shape = sum(np.exp(-((bins - f) / 200) ** 2) for f in (250 * phone, 1200 + 900 * ((3 * phone) % 5)))
        sound = np.fft.irfft(np.fft.rfft(noise) * shape, len(noise))
        wave += np.repeat(truth == phone, HOP) * sound
    return torch.from_numpy(wave).float(), Chain(torch.tensor(said), torch.tensor(optional)), torch.from_numpy(truth)


@pytest.fixture(scope="module")
def made():
    waves, chains, truths = zip(*(spoken(seed) for seed in range(40)), strict=True)
    return [cepstra(wave) for wave in waves], list(chains), torch.cat(truths)


def share(found: list[torch.Tensor], truth: torch.Tensor) -> float:
    """Of the frames of speech that are right, apart from those at an edge: a window of 25 ms hears both sides of it."""
    edge = F.pad(truth.diff() != 0, (1, 0)) | F.pad(truth.diff() != 0, (0, 1))
    return float((torch.cat(found) == truth)[~edge & (truth > 0)].double().mean())


def test_known_segments_are_found(made):
    """From recordings and phones alone; told the phones backwards, much is wrong: each lasts three frames at least."""
    features, chains, truth = made
    model = PhoneModel(PHONES)
    model.fit(features, chains, rounds=(6, 2))
    backwards = [Chain(chain.phones.flip(0), chain.optional.flip(0)) for chain in chains]
    right, wrong = (share(model.align(features, its), truth) for its in (chains, backwards))
    assert right > 0.97 and wrong < 0.8


def test_alone_as_together(made):
    features, chains, _ = made
    model = PhoneModel(PHONES)
    model.fit(features, chains, rounds=(1,))
    together = model.align(features, chains)
    assert all(model.align([x], [c])[0].equal(y) for x, c, y in zip(features[:5], chains, together, strict=False))


def test_scores_are_log_densities(made):
    """Against torch's own mixtures."""
    features, chains, _ = made
    model = PhoneModel(PHONES)
    model.fit(features, chains, rounds=(1, 1))
    d = torch.distributions
    parts = d.Independent(d.Normal(model.mean, model.variance.sqrt()), 1)
    truth = d.MixtureSameFamily(d.Categorical(model.weight), parts).log_prob(features[0][:, None])
    torch.testing.assert_close(model.scores(features[0]), truth, atol=1e-2, rtol=1e-4)


def test_training_never_lowers_the_score_of_the_paths(made):
    """With one Gaussian a state, paths and Gaussians each can only raise it (Viterbi training ascends)."""
    features, chains, _ = made
    reached = []
    for rounds in (1, 2, 3, 4):
        model = PhoneModel(PHONES)
        model.fit(features, chains, rounds=(rounds,))
        paths = model._paths(features, chains)
        reached.append(sum(float(model.scores(x).gather(1, p[:, None]).sum())
                           for x, p in zip(features, paths, strict=True)))
    assert all(after >= before - 1e-4 * abs(before) for before, after in pairwise(reached))
    assert reached[-1] > reached[0]


def test_a_recording_too_short_for_its_phones_is_told():
    model, chain = PhoneModel(3), Chain(torch.tensor([1, 2]), torch.tensor([False, False]))
    assert model.fits(torch.zeros(6, 2), chain) and not model.fits(torch.zeros(5, 2), chain)
    with pytest.raises(ShapeError, match="got 5 for 6"):
        model.fit([torch.zeros(5, 2)], [chain])
