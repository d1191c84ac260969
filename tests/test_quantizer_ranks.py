"""Two processes end with one codebook: the one that a single process learns from the joined batches."""

import pytest
import torch
from processes import Process
from torch import distributed as dist

from audiovae.bottlenecks import RVQConfig, VQConfig
from audiovae.bottlenecks.ranks import pick

RVQ = RVQConfig(
    num_codes=32, dim=4, num_quantizers=2, decay=0.8, kmeans_after=3, dead_threshold=0.3, quantizer_dropout=0.5
)
CONFIGS = {"rvq": RVQ, "vq-first-batch": VQConfig(num_codes=32, dim=4, decay=0.8, dead_threshold=0.3)}
STEPS, COLLAPSE, SPLIT = 30, 8, (5, 3)  # rank 0 has five of the eight examples of a batch


def train(name, share=slice(None)):
    """The state after training on ``share`` of each batch, its z, and how many codes were revived."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    bottleneck = CONFIGS[name].build(dims=1)
    z, revived = [], 0
    for step in range(STEPS):
        if step == COLLAPSE:
            for book in bottleneck.books:
                book.vectors[8:] += 50
                book.sums.copy_(book.vectors * book.counts[:, None])
        batch = torch.randn(8, 4, 32, generator=torch.Generator().manual_seed(step))
        far = [(book.vectors > 25).any(1).sum() for book in bottleneck.books]
        z.append(bottleneck(batch[share]).z)
        revived += sum(int(a - (b.vectors > 25).any(1).sum()) for a, b in zip(far, bottleneck.books, strict=True))
    return bottleneck.state_dict(), torch.stack(z), revived


def one_rank(rank, folder):
    rank = int(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    start = sum(SPLIT[:rank])
    out = {name: train(name, slice(start, start + SPLIT[rank])) for name in CONFIGS}
    rows = torch.arange(3.0).view(3, 1) + 10 * rank
    out["pick"] = pick(rows[: 3 - rank], torch.tensor([4, 0, 2, 3]))
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    processes = [Process(one_rank, rank, folder) for rank in range(2)]
    for done in [its.done() for its in processes]:
        assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CONFIGS)
def test_both_ranks_hold_the_same_codebook_to_the_bit(ranks, name):
    first, second = ranks[0][name][0], ranks[1][name][0]
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_that_of_one_process_on_the_joined_batch(ranks, name):
    state, z, revived = train(name)
    assert revived >= 24  # so that revival is part of what agrees
    for key, value in ranks[0][name][0].items():
        torch.testing.assert_close(value, state[key], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([rank[name][1] for rank in ranks], dim=1), z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_rank_left_alone_learns_another_codebook(ranks, name):
    """The check above can fail: without the other rank's batches the codes differ."""
    alone = train(name, slice(0, SPLIT[0]))[0]
    assert not torch.allclose(alone["books.0.vectors"], ranks[0][name][0]["books.0.vectors"], atol=1e-2)


def test_rows_are_picked_in_rank_order(ranks):
    """Rank 0 holds 0, 1, 2 and rank 1 holds 10, 11."""
    for rank in ranks:
        assert rank["pick"].flatten().tolist() == [11, 0, 2, 10]


