"""Recordings in and out: the door to reading (reader.py) and writing (writer.py)."""

from audiovae.audio.reader import (
    AUDIO_SUFFIXES,
    AudioInfo,
    Channel,
    audio_comment,
    audio_info,
    read_audio,
    stream_audio,
    stream_channels,
)
from audiovae.audio.writer import AudioWriter, write_audio

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioInfo",
    "AudioWriter",
    "Channel",
    "audio_comment",
    "audio_info",
    "read_audio",
    "stream_audio",
    "stream_channels",
    "write_audio",
]
