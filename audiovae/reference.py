"""Who speaks, as a vector: a reference encoder, trained with the decoder that is told it (Skerry-Ryan 2018, section 3).

It reads any recording of a voice, so a voice it was never trained on can be asked for.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from audiovae.audio.features import LogMel
from audiovae.config import Config, Count
from audiovae.errors import ConfigError, ShapeError
from audiovae.nn.convnext import ConvNeXtStack
from audiovae.nn.pooling import mean_and_deviation
from audiovae.shapes import Condition, DataSpec, check


class ReferenceEncoder(nn.Module):
    """Log-mel frames through a ConvNeXt stack, then their mean and deviation, each frame weighed as it deserves.

    Attentive statistics (Okabe 2018, eq. 2-6): silence and padding weigh little, so recordings of any length do.
    A condition that carries an ``embedding`` (B, dim) already is not read again.

    Shapes: condition.reference (B, 1, R) -> (B, dim). Raises ShapeError where the condition has neither.

    >>> reference = ReferenceEncoder(16000, dim=32, width=16, depth=1)
    >>> reference(Condition(reference=torch.randn(2, 1, 16000)), batch=2).shape
    torch.Size([2, 32])
    """

    def __init__(self, sample_rate: int, dim: int, width: int = 192, depth: int = 3, num_mels: int = 80):
        super().__init__()
        self.mel = LogMel(sample_rate, n_fft=640, hop=160, num_mels=num_mels)
        self.into = nn.Linear(2 * num_mels, width)
        self.stack = ConvNeXtStack(1, width, depth)
        self.norm = nn.LayerNorm(width)
        self.weigh = nn.Linear(width, width)
        self.out = nn.Linear(2 * width, dim)

    def forward(self, condition: Condition | None, batch: int) -> Tensor:
        if condition is not None and condition.embedding is not None:
            return condition.embedding
        if condition is None or condition.reference is None:
            raise ShapeError("ReferenceEncoder wants a recording of the voice, or its vector: set the condition's "
                             "reference or embedding.")
        return self.vector(condition.reference)

    def vector(self, x: Tensor) -> Tensor:
        """A recording (B, 1, R) of a voice to its vector (B, dim)."""
        check("ReferenceEncoder", x, channels=1, dims=1)
        mel = self.mel(nn.functional.pad(x, (0, -x.shape[-1] % (2 * self.mel.stft.hop)))).transpose(1, 2)
        h = self.norm(self.stack(self.into(mel.reshape(len(x), -1, self.into.in_features))))
        share = self.weigh(h).softmax(dim=1)
        return self.out(mean_and_deviation(h, share))


@dataclass(frozen=True)
class ReferenceConfig(Config):
    """The reference encoder: ``width`` and ``depth`` of its stack."""

    width: Count = 192
    depth: Count = 3
    num_mels: Count = 80

    def build(self, data: DataSpec, dim: int) -> ReferenceEncoder:
        if data.sample_rate is None or data.channels != 1:
            raise ConfigError(f"model.reference wants mono audio, got {data}: leave it out.")
        return ReferenceEncoder(data.sample_rate, dim, self.width, self.depth, self.num_mels)
