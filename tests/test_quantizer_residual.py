"""Residual stages: the first n of Q are a quantizer of their own, and dropout trains them as one."""

import math
from collections import Counter

import pytest
import torch

from audiovae.bottlenecks import GroupedConfig, RVQConfig, VQConfig
from audiovae.bottlenecks.search import beam_search, nearest

CONFIG = RVQConfig(num_codes=16, dim=4, num_quantizers=4)


def warm(config=CONFIG):
    rvq = config.build(dims=1)
    rvq(torch.randn(16, 4, 20))
    return rvq


def test_each_stage_codes_what_the_ones_before_left():
    rvq, h = warm().eval(), torch.randn(2, 4, 5)
    codes = rvq.encode(h)
    for b in range(2):
        for step in range(5):
            left = h[b, :, step]
            for q, book in enumerate(rvq.books):
                k = ((left - book.vectors) ** 2).sum(1).argmin()
                assert codes[b, q, step] == k
                left = left - book.vectors[k]


def test_a_beam_comes_nearer_with_the_same_codebooks():
    rvq, h = warm().eval(), torch.randn(16, 4, 50)
    errors = [(rvq.decode(rvq.encode(h, 3, beam)) - h).square().mean().item() for beam in (1, 2, 4, 16)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.95 * errors[0]
    assert torch.equal(rvq.encode(h, 1, beam=4), rvq.encode(h, 1)), "one codebook alone has a nearest code"


def test_training_searches_as_encoding_does():
    """Each example's codes are those of a beam over the stages it keeps; the stages after them take the nearest."""
    rvq = warm(RVQConfig(num_codes=16, dim=4, num_quantizers=4, quantizer_dropout=1.0, beam=3))
    tables, h = [book.vectors.clone() for book in rvq.books], torch.randn(32, 4, 20)
    latent = rvq(h)
    kept = (latent.rate / (20 * math.log(16))).round().int().tolist()
    assert set(kept) == {1, 2, 3, 4}
    for x, n, codes, z in zip(h, kept, latent.codes, latent.z, strict=True):
        wanted = beam_search(x.T, tables[:n], 3)
        assert torch.equal(codes[:n], wanted)
        left = x.T - sum(table[k] for table, k in zip(tables, codes[:n], strict=False))
        torch.testing.assert_close(z, x - left.T)
        for table, index in zip(tables[n:], codes[n:], strict=True):
            assert torch.equal(index, nearest(left, table))
            left = left - table[index]
    rvq.eval()
    assert torch.equal(rvq(h).codes, rvq.encode(h, beam=3)) and not torch.equal(rvq(h).codes, rvq.encode(h))


def test_more_stages_are_closer():
    rvq, h = warm().eval(), torch.randn(16, 4, 50)
    codes = rvq.encode(h)
    errors = [(rvq.decode(codes[:, :n]) - h).square().mean().item() for n in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.25 * errors[0]


def test_the_first_stages_are_a_residual_quantizer_of_their_own():
    rvq, h = warm().eval(), torch.randn(3, 4, 9)
    short = RVQConfig(num_codes=16, dim=4, num_quantizers=2).build(dims=1).eval()
    state = rvq.state_dict()
    short.load_state_dict({key: state[key] for key in short.state_dict()})
    codes = rvq.encode(h)
    assert torch.equal(short.encode(h), codes[:, :2])
    assert torch.equal(short.decode(codes[:, :2]), rvq.decode(codes[:, :2]))


def test_one_stage_is_vector_quantization():
    rvq = RVQConfig(num_codes=16, dim=4, num_quantizers=1).build(dims=1)
    vq = VQConfig(num_codes=16, dim=4).build(dims=1)
    vq.load_state_dict(rvq.state_dict())
    for _ in range(5):
        h = torch.randn(4, 4, 20)
        one, other = rvq(h), vq(h)
        assert torch.equal(one.z, other.z) and torch.equal(one.codes, other.codes)
        assert one.losses == other.losses


def test_groups_are_vector_quantizers_side_by_side():
    grouped = GroupedConfig(groups=2, each=VQConfig(num_codes=8, dim=3)).build(dims=1)
    h = torch.randn(4, 6, 30)
    alone = [VQConfig(num_codes=8, dim=3).build(dims=1) for _ in range(2)]
    both, parts = grouped(h), [vq(x) for vq, x in zip(alone, h.chunk(2, dim=1), strict=True)]
    assert torch.equal(both.z, torch.cat([p.z for p in parts], dim=1))
    assert torch.equal(both.codes, torch.cat([p.codes for p in parts], dim=1))
    torch.testing.assert_close(both.losses["commitment"], sum(p.losses["commitment"] for p in parts) / 2)


class TestDropout:
    config = RVQConfig(num_codes=16, dim=4, num_quantizers=4, quantizer_dropout=1.0)

    @pytest.fixture
    def outcome(self):
        rvq = warm(self.config)
        tables = [book.vectors.clone() for book in rvq.books]
        h = torch.randn(64, 4, 20, requires_grad=True)
        latent = rvq(h)
        kept = (latent.rate / (20 * math.log(16))).round().int().tolist()
        return h, latent, kept, tables

    def test_later_stages_add_nothing_to_z(self, outcome):
        _, latent, kept, tables = outcome
        for b, n in enumerate(kept):
            z = sum(tables[q][latent.codes[b, q]] for q in range(n)).T
            torch.testing.assert_close(latent.z[b].detach(), z)

    def test_nor_to_the_commitment_and_its_gradient(self, outcome):
        h, latent, kept, tables = outcome
        commitment, pull = 0.0, torch.zeros_like(h)
        for b, n in enumerate(kept):
            left = h[b].detach()
            for q in range(n):
                left = left - tables[q][latent.codes[b, q]].T
                commitment += left.square().sum() / h.numel()
                pull[b] += 2 * left / h.numel()
        latent.losses["commitment"].backward()
        torch.testing.assert_close(latent.losses["commitment"].detach(), commitment)
        torch.testing.assert_close(h.grad, pull)

    def test_an_example_keeps_any_number_of_stages_equally_often(self):
        rvq, seen = warm(self.config), Counter()
        for _ in range(20):
            rate = rvq(torch.randn(100, 4, 1)).rate
            seen.update((rate / math.log(16)).round().int().tolist())
        assert sorted(seen) == [1, 2, 3, 4]
        assert all(abs(count - 500) < 5 * math.sqrt(2000 * 0.25 * 0.75) for count in seen.values())

    def test_only_the_share_asked_for_is_cut(self):
        rvq = warm(RVQConfig(num_codes=16, dim=4, num_quantizers=4, quantizer_dropout=0.4))
        rates = torch.cat([rvq(torch.randn(100, 4, 1)).rate for _ in range(20)])
        full = (rates > 3.5 * math.log(16)).float().mean().item()
        assert full == pytest.approx(0.6 + 0.4 / 4, abs=0.05)

    def test_the_share_asked_for_passes_unquantized_and_differs_in_z_alone(self):
        settings = {"num_codes": 16, "dim": 4, "num_quantizers": 4, "quantizer_dropout": 0.4}
        plain, rvq = warm(RVQConfig(**settings)), warm(RVQConfig(**settings, unquantized=0.3))
        rvq.load_state_dict(plain.state_dict())
        passed = 0
        for _ in range(20):
            h = torch.randn(100, 4, 3)
            alike, latent = plain(h), rvq(h)
            whole = (latent.z == h).flatten(1).all(1)
            passed += int(whole.sum())
            assert torch.equal(latent.z[~whole], alike.z[~whole])
            assert torch.equal(latent.codes, alike.codes) and torch.equal(latent.rate, alike.rate)
            assert latent.losses == alike.losses
        assert passed == pytest.approx(600, abs=5 * math.sqrt(2000 * 0.3 * 0.7))

    def test_the_gradient_of_both_is_that_of_the_latent(self):
        rvq = warm(RVQConfig(num_codes=16, dim=4, num_quantizers=4, unquantized=0.5))
        h = torch.randn(20, 4, 3, requires_grad=True)
        weight = torch.randn(20, 4, 3)
        (rvq(h).z * weight).sum().backward()
        assert torch.equal(h.grad, weight)

    def test_nothing_is_dropped_in_evaluation(self):
        rvq = warm(self.config).eval()
        assert rvq(torch.randn(50, 4, 1)).rate == pytest.approx([4 * math.log(16)] * 50)

    def test_nor_passed_unquantized(self):
        rvq = warm(RVQConfig(num_codes=16, dim=4, num_quantizers=4, unquantized=1.0)).eval()
        latent = rvq(torch.randn(5, 4, 3))
        torch.testing.assert_close(latent.z, rvq.decode(latent.codes))
