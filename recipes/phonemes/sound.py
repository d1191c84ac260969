"""What the sound itself says of phonemes: a perceptron on the features that the alignment was made from.

No code can be asked for more of a reference that phones were aligned to: where that is wrong, or a phone was said
otherwise, sound is no help either.
"""

import numpy as np
import torch
from maps import Ints
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, STRIDE = 8, 2  # frames of 10 ms on either side that are read, and from one that is told to the next
WIDTH, DROPOUT = 512, 0.4
ROUNDS, BATCH, RATE, SEED = 5, 512, 1e-3, 0


def of_sound(train: NDArray[np.float16], phonemes: Ints, test: NDArray[np.float16], count: int) -> Ints:
    """The phoneme that two hidden layers tell, from features (N, O, D) about each frame; as the maps of codes do."""
    torch.manual_seed(SEED)
    known, asked = (torch.from_numpy(part).flatten(1) for part in (train, test))
    some = known[::max(1, len(known) // 20_000)].float()
    mean, deviation = some.mean(0), some.std(0, correction=0).clamp(min=1e-3)
    layers: list[nn.Module] = []
    for size in (known.shape[1], WIDTH):
        layers += [nn.Linear(size, WIDTH), nn.ReLU(), nn.Dropout(DROPOUT)]
    net = nn.Sequential(*layers, nn.Linear(WIDTH, count))

    def logits(rows: Tensor) -> Tensor:
        return net((rows.float() - mean) / deviation)

    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    batches = [part for _ in range(ROUNDS) for part in torch.randperm(len(known)).split(BATCH)]
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, len(batches))
    wanted = torch.from_numpy(phonemes.astype(np.int64))
    for part in batches:
        F.cross_entropy(logits(known[part]), wanted[part]).backward()
        optimizer.step()
        optimizer.zero_grad()
        falling.step()
    net.eval()
    with torch.no_grad():
        return torch.cat([logits(rows).argmax(1) for rows in asked.split(8192)]).numpy()
