"""Two processes train what one trains on their joined batches: the recipe of Jukebox's sizes, made small."""

import json
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from processes import Process

from audiovae.checkpoint import load_model
from audiovae.code_data import stacked
from audiovae.config import read
from audiovae.data import AudioData, AudioSource
from audiovae.shapes import Batch
from audiovae.train import Experiment, train

RECIPE = Path(__file__).parent.parent / "recipes/music/jukebox.toml"
RANKS = 2


class Joined(AudioSource):
    """The batches of several ranks as one."""

    def batch(self, step: int, rank: int = 0) -> Batch:
        assert isinstance(self.config, JoinedData)
        return stacked([super(Joined, self).batch(step, rank + other) for other in range(self.config.ranks)])


@dataclass(frozen=True)
class JoinedData(AudioData):
    ranks: int = 1

    def build(self, seed: int) -> Joined:
        return Joined(self, seed)


def small(corpus: str, ranks: int) -> Experiment:
    """The recipe with its losses, codebooks and levels, two of them, on a few narrow layers."""
    rows = [{"strides": [2] * (2 + 2 * level), "num_codes": 32, "dim": 8, "width": 8, "depth": 1} for level in range(2)]
    experiment = read(Experiment, RECIPE, {"model.levels": rows, "train.steps": 8, "train.level": "each",
                                           "train.log_every": 1, "objective.criteria": [
        {"kind": "sample_l2"}, {"kind": "top_squares", "weight": 0.02, "k": 64}, {"kind": "jukebox_spectral"}]})
    return replace(experiment, data=JoinedData(corpus=corpus, seconds=0.3, batch_size=4, validation_batches=2,
                                               ranks=ranks))


def one_rank(rank: str, port: str, corpus: str, folder: str) -> None:
    """What `accelerate launch --num_processes 2 --cpu` tells its processes, and the training they run."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    train(small(corpus, ranks=1), Path(folder))


@pytest.fixture(scope="module")
def trained(tiny_corpus, tmp_path_factory):
    """The run of two processes, and that of one."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [Process(one_rank, rank, port, tiny_corpus, folder / "two") for rank in range(RANKS)]
    for done in [its.done() for its in ranks]:
        assert done.returncode == 0, done.stderr
    train(small(str(tiny_corpus), ranks=RANKS), folder / "one")
    train(small(str(tiny_corpus), ranks=1), folder / "half")
    return folder


def validated(run: Path) -> float:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["total"] for row in rows if row["split"] == "valid"][-1]


def weights(run: Path) -> torch.Tensor:
    return torch.cat([value.float().flatten() for value in load_model(run).state_dict().values()])


def test_the_loss_is_that_of_one_process_on_the_joined_batch(trained):
    """The loss of held-out data, and every weight and code, averaged over the run as they are kept."""
    assert validated(trained / "two") == pytest.approx(validated(trained / "one"), rel=1e-5)
    torch.testing.assert_close(weights(trained / "two"), weights(trained / "one"), rtol=1e-4, atol=1e-5)


def test_a_process_left_alone_learns_something_else(trained):
    """The check above can fail: with the batches of one rank only the weights are others."""
    apart = (weights(trained / "half") - weights(trained / "one")).abs()
    assert float((apart > 1e-4).float().mean()) > 0.1
