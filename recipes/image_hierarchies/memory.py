"""What a picture model would need to train: parameters and bytes, counted without computing or allocating it.

    python recipes/image_hierarchies/memory.py recipes/image_hierarchies/ffhq256.toml --size 256 --channels 3
"""

import argparse
from dataclasses import replace

import torch

from audiovae.config import read
from audiovae.models import LadderConfig, ModelConfig
from audiovae.shapes import DataSpec
from audiovae.train import Experiment

WORDS_A_WEIGHT = 5  # the weight, its gradient, two moments and the average


def activations(config: ModelConfig, data: DataSpec, batch: int) -> int:
    """Bytes kept for the backward pass of one batch, each memory counted once, without those of the weights.

    Of a model with codes, whose quantizers look at numbers, one picture is computed, and counted ``batch`` times.
    """
    with torch.device("meta"):
        coded = bool(config.build(data).code_levels)
    with torch.device("cpu" if coded else "meta"):
        model = config.build(data).train(not coded)  # codebooks need not learn
        x = torch.zeros(1 if coded else batch, data.channels, *(data.size or ()))
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(value: torch.Tensor) -> torch.Tensor:
            storage = value.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            model(x)
    return sum(storage.nbytes() for storage in kept.values()) * (batch if coded else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--size", type=int, required=True, help="pixels of a side")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch", type=int, help="pictures a step (default: the recipe's)")
    parser.add_argument("--levels", type=int, default=256)
    asked = parser.parse_args()
    experiment = read(Experiment, asked.recipe)
    data = DataSpec(asked.channels, 2, size=(asked.size, asked.size), levels=asked.levels)
    batch = asked.batch or experiment.data.batch_size
    with torch.device("meta"):
        weights = sum(p.numel() for p in experiment.model.build(data).parameters())
    print(f"{weights / 1e6:.1f} million weights: {4 * WORDS_A_WEIGHT * weights / 2**30:.1f} GiB with gradients, "
          "moments and average")
    variants = {"": experiment.model}
    if isinstance(experiment.model, LadderConfig):
        variants = {f", checkpoint = {str(again).lower()}": replace(experiment.model, checkpoint=again)
                    for again in (False, True)}
    for name, model in variants.items():
        need = activations(model, data, batch)
        print(f"{need / 2**30:.1f} GiB of activations for {batch} pictures of {asked.size} x {asked.size} in single "
              f"precision{name}")


if __name__ == "__main__":
    main()
