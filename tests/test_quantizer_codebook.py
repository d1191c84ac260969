"""How codes learn: the moving average by hand, dead codes revived, and runs that stop and go on."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load, save

from audiovae.bottlenecks import GroupedConfig, RVQConfig, VQConfig
from audiovae.bottlenecks.codebook import SMOOTHING, Codebook
from audiovae.likelihoods import Gaussian
from audiovae.objectives import ObjectiveConfig
from audiovae.shapes import Output

VQ = VQConfig(num_codes=64, dim=8)


@pytest.fixture(autouse=True)
def _one_thread(_seeded):
    torch.set_num_threads(1)  # hundreds of small steps: threads would only wait for each other


def test_moving_average_is_the_closed_form():
    """Counts and sums by a loop over vectors; e_k = m_k / N_k with the smoothed count of the paper."""
    vq = VQConfig(num_codes=6, dim=3, decay=0.9, dead_threshold=0.0).build(dims=1)
    vq(torch.randn(4, 3, 30))
    (book,) = vq.books
    e, count, total = (t.double().clone() for t in (book.vectors, book.counts, book.sums))
    for _ in range(5):
        h = torch.randn(4, 3, 30)
        n, m = torch.zeros(6).double(), torch.zeros(6, 3).double()
        for vector in h.transpose(1, 2).reshape(-1, 3).double():
            k = ((vector - e) ** 2).sum(1).argmin()
            n[k] += 1
            m[k] += vector
        count, total = 0.9 * count + 0.1 * n, 0.9 * total + 0.1 * m
        smooth = (count + SMOOTHING) / (count.sum() + 6 * SMOOTHING) * count.sum()
        e = total / smooth[:, None]
        vq(h)
        torch.testing.assert_close(book.counts.double(), count, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(book.vectors.double(), e, rtol=1e-5, atol=1e-5)


def test_a_still_codebook_converges_to_the_mean_of_its_vectors():
    vq = VQConfig(num_codes=2, dim=2, decay=0.5).build(dims=1)
    x = torch.tensor([[-5.0, 0.0], [-6.0, 1.0], [5.0, 0.0], [7.0, 2.0]])
    for _ in range(30):
        vq(x.T[None])
    assert vq.books[0].vectors.sort(0)[0].flatten().tolist() == pytest.approx([-5.5, 0.5, 6.0, 1.0], abs=1e-3)


def collapse(book):
    """Codes as after a failed start: one among the data, the others far off, all counted as alive."""
    with torch.no_grad():
        book.vectors[1:] += 100
        book.counts.fill_(1024 / 64)
        if book.config.codebook == "ema":
            book.sums.copy_(book.vectors * book.counts[:, None])


def share_in_use(config, stage=0, kind=Codebook):
    """Share of 64 codes used by unseen data, 300 steps after a collapse."""
    bottleneck = config.build(dims=1)
    bottleneck(torch.randn(8, 8, 128))
    bottleneck.books[stage].__class__ = kind
    collapse(bottleneck.books[stage])
    codes = bottleneck.encode(torch.randn(16, 8, 128))[:, stage]
    assert len(codes.unique()) == 1
    for _ in range(300):
        bottleneck(torch.randn(8, 8, 128))
    return len(bottleneck.encode(torch.randn(16, 8, 128))[:, stage].unique()) / 64


@pytest.mark.parametrize(
    "config, stage",
    [
        (VQ, 0),
        (replace(VQ, codebook="loss"), 0),
        (RVQConfig(num_codes=64, dim=8, num_quantizers=2), 0),
        (RVQConfig(num_codes=64, dim=8, num_quantizers=2), 1),
    ],
)
def test_a_collapsed_codebook_comes_back_to_life(config, stage):
    assert share_in_use(config, stage) >= 0.9


class AbsoluteThreshold(Codebook):
    """Dead below a fixed count, whatever N/K is."""

    def _revive(self, x, fair, step, stage):
        super()._revive(x, torch.ones(()), step, stage)


class SumsNotReset(Codebook):
    """A revived code moves and is counted, but its running sum still lies where nobody chose it."""

    def _revive(self, x, fair, step, stage):
        old = self.sums.clone()
        super()._revive(x, fair, step, stage)
        self.sums.copy_(old)


class CountsNotReset(Codebook):
    """A revived code keeps the count it died of."""

    def _revive(self, x, fair, step, stage):
        old = self.counts.clone()
        super()._revive(x, fair, step, stage)
        self.counts.copy_(old)


@pytest.mark.parametrize("broken", [AbsoluteThreshold, SumsNotReset, CountsNotReset])
def test_the_check_of_revival_sees_the_known_bugs(broken):
    assert share_in_use(VQ, kind=broken) < 0.9


def test_a_healthy_codebook_is_left_alone():
    """No code of an evenly used codebook is called dead, whatever the batch's size."""
    for length in (16, 128, 1024):
        vq = replace(VQ, num_codes=8).build(dims=1)
        vq(torch.randn(8, 8, length))
        fair = 8 * length / 8
        for _ in range(50):
            vq(torch.randn(8, 8, length))
            assert vq.books[0].counts.min() > 0.2 * fair


def test_dead_codes_are_revived_on_vectors_of_the_batch():
    vq = VQ.build(dims=1)
    vq(torch.randn(8, 8, 128))
    (book,) = vq.books
    dead = torch.arange(64) % 3 == 0
    book.counts[dead] = 0
    book.vectors[dead] = 100.0
    h = torch.randn(8, 8, 128)
    vq(h)
    rows = h.transpose(1, 2).reshape(-1, 8)
    distances = torch.cdist(book.vectors[dead], rows, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    assert not distances.any()
    assert len(book.vectors[dead].unique(dim=0)) == dead.sum()
    torch.testing.assert_close(book.sums[dead], book.vectors[dead] * book.counts[dead][:, None])


def test_k_means_starts_the_codes_on_the_first_batch():
    vq = VQ.build(dims=1)
    latent = vq(torch.randn(8, 8, 128) + 50)
    assert latent.stats["usage"] > 0.95
    assert latent.losses["commitment"] < 0.6  # of variance 1: the codes are among the data


def test_until_k_means_vectors_pass_unquantized_and_are_collected():
    vq = replace(VQ, kmeans_after=3).build(dims=1)
    first = vq.books[0].vectors.clone()
    for step in range(3):
        h = torch.randn(8, 8, 128)
        latent = vq(h)
        assert torch.equal(latent.z, h) and latent.stats["bypass"] == 1 and latent.losses["commitment"] == 0
        loss = ObjectiveConfig().build(None)(Output((latent,), params=h), h, Gaussian(), progress=0.0)
        assert "elbo" not in loss.numbers(), "what passes has no code, and no length of any"
        assert torch.equal(vq.books[0].vectors, first)
        assert len(vq.collected) == (step + 1) * -(-32 * 64 // 3)
    latent = vq(torch.randn(8, 8, 128))
    assert latent.stats["bypass"] == 0 and latent.stats["usage"] > 0.9 and len(vq.collected) == 0


class Run:
    """A training run whose data, and so whose every number, is a function of the step."""

    configs: ClassVar = {
        "vq": replace(VQ, num_codes=16, kmeans_after=3, decay=0.8, dead_threshold=0.6),
        "loss": replace(VQ, num_codes=16, kmeans_after=3, codebook="loss", dead_threshold=0.6, decay=0.8),
        "cosine": replace(VQ, num_codes=16, geometry="cosine", standardize=True, dead_threshold=0.6, decay=0.8),
        "rvq": RVQConfig(num_codes=16, dim=8, num_quantizers=3, quantizer_dropout=0.7, kmeans_after=3),
        "grouped": GroupedConfig(groups=2, each=VQConfig(num_codes=16, dim=4, kmeans_after=3)),
    }

    def __init__(self, name):
        self.bottleneck = self.configs[name].build(dims=1)

    def go(self, steps):
        """A trace of all that training sees."""
        trace = []
        for step in steps:
            h = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(step))
            latent = self.bottleneck(h)
            trace += [latent.z.detach(), latent.codes, latent.rate, *(x.detach() for x in latent.losses.values())]
        return trace


@pytest.mark.parametrize("stop", [2, 3, 4, 7])
@pytest.mark.parametrize("name", Run.configs)
def test_save_load_and_go_on_is_never_having_stopped(name, stop):
    """Bit for bit, before, at and after k-means, from a file, wherever the global random state stands."""
    torch.manual_seed(1)
    whole = Run(name)
    begun = Run(name)
    begun.bottleneck.load_state_dict(whole.bottleneck.state_dict())
    expected = whole.go(range(10))

    trace = begun.go(range(stop))
    file = save({key: value.contiguous() for key, value in begun.bottleneck.state_dict().items()})
    torch.manual_seed(99)
    resumed = Run(name)
    resumed.bottleneck.load_state_dict(load(file))
    trace += resumed.go(range(stop, 10))
    assert all(torch.equal(a, b) for a, b in zip(trace, expected, strict=True))
    ends = (resumed.bottleneck.state_dict(), whole.bottleneck.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])


def test_training_leaves_the_global_random_state_alone():
    run = Run("rvq")
    torch.manual_seed(5)
    run.go(range(6))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_perplexity_and_usage_of_known_codes():
    vq = VQConfig(num_codes=4, dim=1).build(dims=1).eval()
    vq.books[0].vectors.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    stats = vq(torch.tensor([[[0.0, 0.1, 1.0, 1.1, 2.9, 2.9, 2.9, 2.9]]])).stats
    assert stats["usage"] == 0.75
    assert stats["perplexity"].item() == pytest.approx(2**1.5)  # H of (1/4, 1/4, 1/2) is 1.5 bits
