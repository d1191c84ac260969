"""Nearest codes by brute force, sums by a loop, and no matrix of all distances on the way."""

from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from audiovae.bottlenecks import VQConfig
from audiovae.bottlenecks.kmeans import kmeans
from audiovae.bottlenecks.search import BLOCK_SCORES, beam_search, nearest, sums, tally


def brute_force(x, codebook):
    """One vector at a time against one code at a time, in double precision."""
    e = codebook.double()
    return [min(range(len(e)), key=lambda k, v=v: float(((v - e[k]) ** 2).sum())) for v in x.double()]


@pytest.mark.parametrize("num_codes", [1, 2, 31, 63, 64, 65, 200])
def test_codes_are_the_nearest_by_brute_force(num_codes):
    x, codebook = torch.randn(40, 5), torch.randn(num_codes, 5)
    assert nearest(x, codebook).tolist() == brute_force(x, codebook)


@pytest.mark.parametrize("num_codes", [512, 1000, 2048, 2049])
def test_large_codebooks_and_block_edges_agree_with_double_precision(num_codes):
    """Several blocks, a last one that is short, and code counts that do not divide into runs."""
    torch.set_num_threads(1)
    x, codebook = torch.randn(BLOCK_SCORES // num_codes * 2 + 3, 16), torch.randn(num_codes, 16)
    distances = torch.cdist(x.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")
    chosen = distances.gather(1, nearest(x, codebook)[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.amin(1), rtol=0, atol=1e-5)


def test_a_common_offset_costs_no_precision():
    """||e||² - 2 x·e of vectors near 1000 loses the digits that tell codes apart; peers choose wrongly."""
    x, codebook = torch.randn(300, 8) + 1000, torch.randn(64, 8) + 1000
    naive = (codebook.square().sum(1) - 2 * x @ codebook.T).argmin(1).tolist()
    truth = brute_force(x, codebook)
    assert nearest(x, codebook).tolist() == truth
    assert naive != truth


def test_of_equal_codes_the_same_is_chosen_each_time():
    codebook = torch.randn(8, 4).repeat(100, 1)
    x = torch.randn(50, 4)
    once = nearest(x, codebook)
    assert torch.equal(once, nearest(x, codebook))
    assert torch.equal(nearest(x, codebook[:8]), once % 8)


def kept_by_a_loop(x, codebooks, beam):
    """The M-algorithm as a sorted list of (error, codes), one vector at a time, in double precision."""
    found = []
    for row in x.double():
        kept = [((), row)]
        for book in codebooks:
            tried = [((*codes, k), left - e) for codes, left in kept for k, e in enumerate(book.double())]
            kept = sorted(tried, key=lambda one: float(one[1].square().sum()))[:beam]
        found.append(list(kept[0][0]))
    return found


@pytest.mark.parametrize("beam", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("num_codes", [1, 2, 7, 10, 33])
def test_a_beam_keeps_the_best_sums_as_a_loop_does(beam, num_codes):
    x, books = torch.randn(15, 4) + 3, [torch.randn(num_codes, 4) * scale + 1 for scale in (1, 0.7, 0.4)]
    assert beam_search(x, books, beam).t().tolist() == kept_by_a_loop(x, books, beam)


def test_a_beam_that_keeps_all_finds_the_nearest_sum_there_is():
    x, books = torch.randn(30, 3), [torch.randn(6, 3) for _ in range(3)]
    sums = torch.stack([sum(book[k] for book, k in zip(books, codes, strict=True))
                        for codes in product(range(6), repeat=3)])
    best = torch.cdist(x, sums).amin(1)
    for beam, finds in ((36, True), (1, False)):
        codes = beam_search(x, books, beam)
        found = sum(book[row] for book, row in zip(books, codes, strict=True))
        assert torch.allclose((x - found).norm(dim=1), best, atol=1e-5) == finds


def test_a_beam_works_through_blocks():
    torch.set_num_threads(1)
    x, books = torch.randn(700, 8), [torch.randn(1024, 8) for _ in range(2)]
    assert len(x) * 4 * 1024 > 2 * BLOCK_SCORES
    pieces = [beam_search(part, books, 4) for part in x.split(200)]
    assert torch.equal(beam_search(x, books, 4), torch.cat(pieces, dim=1))


class Largest(TorchDispatchMode):
    """Remembers the most elements any tensor made inside has had."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().nbytes():
            self.elements = max(self.elements, out.untyped_storage().nbytes() // out.element_size())
        return out


@pytest.mark.parametrize("train", [False, True])
def test_no_tensor_of_n_times_k_is_ever_made(train):
    torch.set_num_threads(1)
    n, num_codes, dim = 16384, 2048, 8
    vq = VQConfig(num_codes=num_codes, dim=dim).build(dims=1)
    vq.step.fill_(1)
    h = torch.randn(2, dim, n // 2, requires_grad=True)
    with Largest() as largest:
        latent = vq.train(train)(h)
        (latent.z.sum() + latent.losses["commitment"]).backward()
    assert largest.elements == BLOCK_SCORES < n * num_codes / 10


def test_sums_and_counts_by_a_loop():
    x, codes = torch.randn(100, 3), torch.randint(0, 7, (100,))
    total, count = torch.zeros(9, 3), torch.zeros(9)
    for row, code in zip(x, codes, strict=True):
        total[code] += row
        count[code] += 1
    torch.testing.assert_close(sums(x, codes, 9), total)
    assert torch.equal(tally(codes, 9), count)


def test_kmeans_finds_clusters_that_are_there():
    centres = 10 * torch.eye(6)
    x = centres.repeat_interleave(50, dim=0) + 0.1 * torch.randn(300, 6)
    codes, counts = kmeans(x, 24, torch.Generator().manual_seed(1))
    assert counts.sum() == 300
    assert torch.cdist(centres, codes).amin(1).max() < 0.5


def test_kmeans_only_lowers_the_distortion_of_random_codes():
    x = torch.randn(2000, 4)
    random = x[torch.randperm(2000, generator=torch.Generator().manual_seed(3))[:32]]
    codes, _ = kmeans(x, 32, torch.Generator().manual_seed(3))

    def distortion(e):
        return torch.cdist(x, e).amin(1).square().mean()

    assert distortion(codes) < 0.8 * distortion(random)


def test_kmeans_of_fewer_vectors_than_codes_keeps_each_vector():
    x = torch.randn(5, 3)
    codes, _ = kmeans(x, 12, torch.Generator().manual_seed(0))
    assert torch.cdist(x, codes).amin(1).max() < 1e-3
