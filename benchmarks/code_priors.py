"""What priors over a model's codes of digits reach in equal processor time: PixelCNN with and without attention, and
the causal transformer.

    python benchmarks/code_priors.py runs/vqvae2_digits --seconds 10

Every prior is trained on the training part for as many seconds of processor time (of one thread, whatever else the
machine does), on the same batches, then measured on the test part, which no training sees. Beside them: the bits of a
code by log2 K, and by how often each code comes in training.
"""

import argparse
import math
import time

import torch

from audiovae.code_data import CodesData, PictureCodes
from audiovae.image.sets import DigitsData
from audiovae.priors import CausalConfig, PixelCNNPriorConfig
from audiovae.report import Table

PRIORS = {"PixelCNN": PixelCNNPriorConfig(width=64, depth=4, attend=0, dropout=0.1),
          "PixelCNN, attention": PixelCNNPriorConfig(width=64, depth=4, attend=2, dropout=0.1),
          "causal transformer": CausalConfig(dim=64, depth=4, dropout=0.1)}


def trained(config, source: PictureCodes, seconds: float, lr: float):
    """A prior and the steps it took."""
    torch.manual_seed(0)
    prior = config.build(source.spec)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    start, step = time.process_time(), 0
    while (share := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * share))
        batch = source.batch(step)
        (-prior(batch.x, batch.condition).mean()).backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
    return prior.eval(), step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--lr", type=float, default=3e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for level, name in ((1, "top"), (0, "bottom")):
        source = CodesData(model=arguments.model, pictures=DigitsData(), level=level, batch_size=64).build(0)
        assert isinstance(source, PictureCodes)
        test, train = source.part("test"), source.part("train")
        size = source.spec.codes.num_codes[0]
        rows.append((name, "log2 K", None, math.log2(size)))
        chances = torch.bincount(train.x.flatten(), minlength=size).float() + 1
        rows.append((name, "counting", None, -float((chances / chances.sum()).log2()[test.x.flatten()].mean())))
        for kind, config in PRIORS.items():
            prior, steps = trained(config, source, arguments.seconds, arguments.lr)
            with torch.no_grad():
                rows.append((name, kind, steps, -float(prior(test.x, test.condition).mean()) / math.log(2)))
            print(*rows[-1], flush=True)
    print("\n" + Table(("level", "prior", "steps", "bits a code"), rows).text())


if __name__ == "__main__":
    main()
