"""VCTK, fetched from where it is published: 110 speakers of English, CC BY 4.0.

Yamagishi, Veaux and MacDonald 2019, https://doi.org/10.7488/ds/2645 (0.92); Veaux, Yamagishi and MacDonald 2017,
https://doi.org/10.7488/ds/1994 (0.80).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audiovae.audio.layouts import find_vctk
from audiovae.download import fetch, unpack

VctkName = Literal["vctk-0.92", "vctk-0.80"]


@dataclass(frozen=True)
class Release:
    """An archive as published. name : of the folder it is unpacked to; checksum : None where none is published."""

    name: str
    url: str
    checksum: str | None


RELEASES: dict[VctkName, Release] = {
    "vctk-0.92": Release(
        "VCTK-Corpus-0.92",
        "https://datashare.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip",
        "md5:8a6ba2946b36fcbef0212cad601f4bfa",
    ),
    "vctk-0.80": Release(
        "VCTK-Corpus-0.80", "https://datashare.ed.ac.uk/bitstream/handle/10283/2651/VCTK-Corpus.zip", None
    ),
}


def download_vctk(
    folder: str | Path, version: VctkName = "vctk-0.92", url: str | None = None, checksum: str | None = None
) -> Path:
    """Fetch and unpack VCTK below ``folder``, and give the folder that holds it; nothing is done where it is there.

    The archive stays beside the unpacked folder.

    Parameters
    ----------
    url : of a mirror of the zip archive; None for the publisher's.
    checksum : "md5:..." or "sha256:..." of an archive that is packed otherwise; None for the published one.

    Raises
    ------
    DownloadError, OutputError
        As :func:`audiovae.download.fetch` and :func:`audiovae.download.unpack`.
    """
    folder, release = Path(folder), RELEASES[version]
    if found := find_vctk(folder, version):
        return found
    archive = fetch(url or release.url, folder / f"{release.name}.zip", checksum or release.checksum)
    unpacked = unpack(archive, folder / release.name)
    return find_vctk(unpacked, version) or unpacked
