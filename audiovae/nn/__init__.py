"""Building blocks of encoders and decoders, for ``dims`` 1 (audio) and 2 (images, spectrograms)."""
