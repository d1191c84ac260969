"""Recordings: reading and writing, resampling, levels, features, and corpora of them."""
