"""The exceptions of audiovae: each says who, what was wanted, what came and what to do next.

Every one of them is one line on stderr and exit code 2 on the command line, without a traceback.
"""

import difflib
from collections.abc import Iterable


class AudiovaeError(Exception):
    """Base of every error a caller can cause and mend; the message is one line, meant for them."""


class ShapeError(AudiovaeError, ValueError):
    """A tensor of the wrong shape, type or range."""


class ConfigError(AudiovaeError, ValueError):
    """A configuration that cannot be read: an unknown key, a wrong type, parts that do not fit."""


class AudioError(AudiovaeError, ValueError):
    """A recording that cannot be used: missing, empty, truncated, not finite, too short, not audio."""


class PictureError(AudiovaeError, ValueError):
    """A picture that cannot be used: missing, empty, truncated, of another size or other channels, no picture."""


class CorpusError(AudiovaeError, ValueError):
    """A corpus that cannot be prepared or opened."""


class DownloadError(AudiovaeError, RuntimeError):
    """A file that cannot be fetched, or that is not the one that was published."""


class CheckpointError(AudiovaeError, ValueError):
    """A checkpoint that is missing, unsafe (a pickle), damaged or of another kind."""


class CodeFileError(AudiovaeError, ValueError):
    """A code file that is truncated, changed, of another version or of another model."""


class LabelError(AudiovaeError, KeyError):
    """A speaker or class the model does not know."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class VoiceError(AudiovaeError, ValueError):
    """A voice that cannot be spoken in: too little speech to tell it from, or of another model."""


class TrainingError(AudiovaeError, RuntimeError):
    """Training that cannot go on, such as a loss that is not finite."""


class ExtraError(AudiovaeError, ImportError):
    """An optional package that is not installed; the message says which extra brings it."""


class EngineError(AudiovaeError, RuntimeError):
    """Processes that encode a corpus and died, or a cluster that is not there."""


class ExportError(AudiovaeError, RuntimeError):
    """An exported model that does not do what the model does."""


class OutputError(AudiovaeError, OSError):
    """An output that cannot be written: a read-only folder, a full disk, a name already taken."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint naming the known names closest to ``name``, empty when there are none at all.

    >>> nearest("num_code", ["num_codes", "dim"])
    'nearest: num_codes'
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4) or sorted(known)[:count]
    return f"nearest: {', '.join(close)}" if close else ""
