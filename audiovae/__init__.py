"""audiovae: audio and music VAEs, from files to codes and back, on one shared core."""

__version__ = "0.1.0"
