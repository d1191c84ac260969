"""Linear maps whose weights are whole numbers of 8 bits: a quarter of the bytes to read, on a processor.

Weights have one scale an output, activations one a row, both symmetric (Jacob 2018, section 2.1, with zero points 0).
Products are summed in whole numbers, so they are exact, the same in any batch and on any machine with the kernel.
"""

import warnings

import torch
from torch import Tensor, nn

from audiovae.errors import ConfigError

ENGINE = "fbgemm"
MOST_WEIGHT = 127
MOST_INPUT = 63  # 7 bits: without VNNI, pairs of products are summed in 16 bits, which 2 · 127 · 127 fits and no more
MIDDLE = 64  # what stands for 0 in an input


class Int8Linear(nn.Module):
    """A linear map without bias, in whole numbers q and k: y_o = s_o r Σ_i q_oi k_i.

    q_oi = round(w_oi / s_o) with s_o = max_i |w_oi| / 127, and k_i = round(x_i / r) with r = max_i |x_i| / 63, of each
    row x.

    Shapes: (..., inputs) float32 -> (..., outputs). No gradient. ConfigError, see :func:`check_int8`.

    >>> w, x = torch.randn(8, 32), torch.randn(3, 32)
    >>> linear = Int8Linear(w)
    >>> bool((linear(x) - x @ w.T).norm() < 0.03 * (x @ w.T).norm())
    True
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        check_int8(weight.device)
        self.outputs, self.inputs = weight.shape
        with torch.no_grad():
            scale = weight.float().abs().amax(1).clamp(min=1e-30) / MOST_WEIGHT
            whole = (weight / scale[:, None]).round().to(torch.int8)
        self.packed = packed(whole, scale)
        self.product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default

    @property
    def nbytes(self) -> int:
        return self.inputs * self.outputs

    def weight(self) -> Tensor:
        """s q (outputs, inputs), the weights that are left."""
        return torch.ops.quantized.linear_unpack(self.packed)[0].dequantize()

    def forward(self, x: Tensor) -> Tensor:
        most = x.abs().amax(-1, keepdim=True)  # where it is 0, so is all that is multiplied by it
        return self.product(x / most, 1 / MOST_INPUT, MIDDLE, self.packed) * most


def packed(whole: Tensor, scale: Tensor) -> torch.ScriptObject:
    """int8 weights (outputs, inputs) and their scales (outputs,) as the kernel wants them."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors that carry their scales are to go from torch; 2.14 has no other way
            tensor = torch._make_per_channel_quantized_tensor(whole, scale.double(), torch.zeros(len(scale), dtype=torch.int64), 0)
        return torch.ops.quantized.linear_prepack(tensor, None)
    finally:
        torch.backends.quantized.engine = before


def check_int8(device: torch.device) -> None:
    """ConfigError unless this machine has the kernel and ``device`` is its processor."""
    if device.type != "cpu":
        raise ConfigError(f"int8 weights are for processors, the model is on {device}: move it there, or take float32 "
                          "weights.")
    there = ENGINE in torch.backends.quantized.supported_engines
    if not there or not hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32") \
            or not hasattr(torch, "_make_per_channel_quantized_tensor"):
        raise ConfigError(f"int8 weights want torch's {ENGINE} kernels, which torch {torch.__version__} has not on "
                          f"this machine (only {', '.join(torch.backends.quantized.supported_engines)}): take float32 "
                          "weights.")
