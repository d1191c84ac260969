"""Linear maps whose weights are whole numbers of 8 bits: a quarter of the bytes to read, on a processor.

Weights have one scale an output, symmetric, and activations a scale and a zero point a row (Jacob 2018, section 2).
Products are summed in whole numbers, row by row: exact, and so the same in any batch.
"""

import warnings

import torch
from torch import Tensor, nn

from audiovae.errors import ConfigError

ENGINE, KERNEL = "fbgemm", "fbgemm_linear_int8_weight_fp32_activation"
MOST = 63  # processors without VNNI sum pairs of products in 16 bits: 2 · 255 · 63 fits, twice as much does not
GAIN = 2.0**12  # of inputs: the kernel counts in steps of no less than 6e-5, too coarse for small ones


class Int8Linear(nn.Module):
    """A linear map without bias, in whole numbers q and k: y_o = s_o r Σ_i q_oi (k_i - z).

    q_oi = round(w_oi / s_o) with s_o = max_i |w_oi| / 63; k_i = round(x_i / r) + z from 0 to 255, with r and z of each
    row x such that 0 and all of it have their place.

    Shapes: (..., inputs) float32 -> (..., outputs). No gradient. ConfigError, see :func:`check_int8`.

    >>> w, x = torch.randn(8, 32), torch.randn(3, 32)
    >>> y = Int8Linear(w)(x)
    >>> bool((y - x @ w.T).norm() < 0.03 * (x @ w.T).norm())
    True
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        check_int8(weight.device)
        weight = weight.detach().float()
        self.scale = weight.abs().amax(1).clamp(min=1e-30) / MOST
        self.whole = (weight / self.scale[:, None]).round().to(torch.int8)
        rest = self.whole.sum(1, dtype=torch.int32), 1.0, 0, torch.zeros(len(weight))
        kernel, whole, scale, gain = getattr(torch, KERNEL), self.whole, self.scale / GAIN, torch.full((1, 1), GAIN)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the kernel is to go one day, which check_int8 will tell
            packed = torch.fbgemm_pack_quantized_matrix(whole)
            kernel(weight[:1], whole, packed, *rest)
        self.row = lambda row: kernel(row * gain, whole, packed, *rest).mul_(scale)  # (1, inputs)

    @property
    def weight(self) -> Tensor:
        """s q (outputs, inputs), what is left of the weights."""
        return self.whole * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2 and len(x) == 1:
            return self.row(x)
        rows = [self.row(row) for row in x.reshape(-1, x.shape[-1]).split(1)]  # many at once would share their scale
        return torch.cat(rows).view(*x.shape[:-1], len(self.scale))

    def __reduce__(self) -> tuple:
        return type(self), (self.weight,)  # what is packed cannot be copied


def check_int8(device: torch.device) -> None:
    """ConfigError unless ``device`` is the processor and torch has the kernel for it."""
    if device.type != "cpu":
        raise ConfigError(f"int8 weights are for the processor, the model is on {device}: move it there, or take "
                          "float32 weights.")
    if ENGINE not in torch.backends.quantized.supported_engines or not hasattr(torch, KERNEL):
        raise ConfigError(f"int8 weights want the {ENGINE} kernels, which torch {torch.__version__} does not have on "
                          "this machine: take float32 weights.")
