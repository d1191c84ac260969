"""audiovae: audio and music VAEs, from files to codes and back, on one shared core."""

import os
from typing import TYPE_CHECKING, Any

# Threads that wait for each other give their core up soon. Where other programs want the cores, spinning as long as
# OpenMP does by default made a training step 9 times slower than not at all; idle cores gain little by it. Read when
# torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from audiovae.codec import Codec
    from audiovae.codes import Codes

__version__ = "0.1.0"
__all__ = ["Codec", "Codes", "__version__"]


def __getattr__(name: str) -> Any:
    """Import what is heavy only when it is asked for, so that the command line starts at once."""
    import importlib

    homes = {"Codec": "audiovae.codec", "Codes": "audiovae.codes"}
    if name not in homes:
        raise AttributeError(f"module 'audiovae' has no attribute '{name}'")
    return getattr(importlib.import_module(homes[name]), name)
