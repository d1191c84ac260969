"""Seeds: whatever is drawn for a step of training is a pure function of whole numbers such as (seed, step, rank)."""

import torch

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, different ones far apart (splitmix64's finaliser).

    >>> mix(0, 1, 2) != mix(0, 2, 1)
    True
    """
    state = 0
    for number in numbers:
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


def reseed(device: torch.device, *numbers: int) -> None:
    """Seed torch's own generators by :func:`mix`, as far as ``device`` draws from them.

    On the CPU that is one; ``torch.manual_seed`` goes through every kind of accelerator, a hundred times as long.

    >>> reseed(torch.device("cpu"), 0, 5)
    >>> bool(torch.rand(1) == torch.rand(1, generator=generator(0, 5)))
    True
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(mix(*numbers))
    else:
        torch.manual_seed(mix(*numbers))


def generator(*numbers: int) -> torch.Generator:
    """A generator on the CPU, seeded by :func:`mix`.

    >>> bool(torch.rand(1, generator=generator(0, 5)) == torch.rand(1, generator=generator(0, 5)))
    True
    """
    return torch.Generator().manual_seed(mix(*numbers))
