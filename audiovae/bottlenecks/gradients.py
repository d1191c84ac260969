"""The two gradients of quantization, each as one autograd node over work done without a graph."""

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from audiovae.bottlenecks.search import sums


class StraightThrough(Function):
    """z_q with the gradient of z_e, and the commitment Σ_q mean ||r_q - sg(e_q)||².

    van den Oord et al. 2017, eq. 3. The residual r_q = z_e - Σ_{j<q} sg(e_j) moves with z_e one to one at
    every stage, so the commitment pulls on z_e by 2/numel · Σ_q (r_q - e_q); that sum over the stages is
    ``pull``, and all that is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, z_e: Tensor, z_q: Tensor, pull: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(pull)
        return z_q.view_as(z_q), value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_z, grad_commitment = grads
        if grad_commitment is None:
            return grad_z, None, None, None
        (pull,) = ctx.saved_tensors
        grad = pull * (grad_commitment * (2 / pull.numel()))
        return grad if grad_z is None else grad.add_(grad_z), None, None, None


class CodebookLoss(Function):
    """mean ||sg(r) - e||², whose gradient moves the codes to the vectors that chose them.

    The second term of eq. 3; its value is that of the commitment of the same stage and is not computed again.
    """

    @staticmethod
    def forward(ctx: Any, codebook: Tensor, codes: Tensor, left: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(codes, left)
        ctx.num_codes = len(codebook)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        codes, left = ctx.saved_tensors
        return sums(left, codes, ctx.num_codes) * (grads[0] * (-2 / left.numel())), None, None, None
