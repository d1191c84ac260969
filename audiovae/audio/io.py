"""Recordings in and out: the door to reading (reader.py) and writing (writer.py)."""

from audiovae.audio.reader import (
    AUDIO_SUFFIXES,
    CONVERTED,
    AudioInfo,
    Channel,
    audio_comment,
    audio_info,
    is_converted,
    read_audio,
    stream_audio,
    stream_channels,
)
from audiovae.audio.writer import AudioWriter, write_audio

__all__ = [
    "AUDIO_SUFFIXES",
    "CONVERTED",
    "AudioInfo",
    "AudioWriter",
    "Channel",
    "audio_comment",
    "audio_info",
    "is_converted",
    "read_audio",
    "stream_audio",
    "stream_channels",
    "write_audio",
]
