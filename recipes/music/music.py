"""From nothing to a new song on the embedded music: python recipes/music/music.py [FOLDER]

Each step shows the command a user would type. What exists already is kept, so a second run takes seconds.
"""

import subprocess
import sys
import time
from pathlib import Path

from measure import measure

from audiovae.audio.io import read_audio
from audiovae.checkpoint import find_checkpoint, load_model, run_checkpoints
from audiovae.errors import AudiovaeError
from audiovae.report import Report, draw_loss

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "recipes"))
from steps import finished, run_command, say  # noqa: E402

GENRES = ("Waltz", "Electronic")


def main(folder: Path) -> int:
    music, corpus, report = folder / "recordings", folder / "corpus", folder / "report.html"
    codec, top, bottom, songs = (folder / name for name in ("codec", "top", "bottom", "songs"))
    had = report.exists() and finished(bottom)

    say(1, f"Three hours of music in five genres are composed and rendered: {music}", done=music.exists())
    if not music.exists():
        subprocess.run([sys.executable, ROOT / "data/demo_music.py", music, "--hours", "3", "--rate", "16000"],
                       check=True)

    say(2, f"They become a training corpus, with names, and no artist in two parts: {corpus}", done=corpus.exists())
    if not corpus.exists():
        run_command("prepare", "music", music, "-o", corpus, "--rate", "16000", "--test-by", "given")

    settings = ["--data.corpus", corpus]
    train(3, "A model learns to code music at two levels, 12.5 and 50 times a second, in 4 minutes", codec,
          "small.toml", settings)
    settings = [*settings, "--data.model", codec]
    train(4, "A prior learns what follows what among the slow codes, told artist, genre and place, in a minute", top,
          "small_top.toml", settings)
    train(5, "A prior learns the fast codes under the slow ones, in a minute", bottom, "small_bottom.toml", settings)

    wanted = [songs / f"{genre.lower()}.wav" for genre in GENRES]
    say(6, f"New music, a minute a genre: {songs}", done=all(path.exists() for path in wanted))
    seconds = []
    for number, (genre, path) in enumerate(zip(GENRES, wanted, strict=True)):
        if not path.exists():
            start = time.perf_counter()
            run_command("sample", top, bottom, "-o", path, "--minutes", "1", "--tags", f"genre={genre}", "--seed",
                        str(number), "--temperature", "0.95", *(["--resume"] if kept(path).exists() else []))
            seconds.append(time.perf_counter() - start)

    say(7, f"What was learnt is measured and shown: {report}", done=had)
    if not had:
        write_report(folder, wanted, seconds)
    print(f"\nOpen {report.resolve()} in a browser: the songs, what was measured, and how training went.")
    return 0


def train(number: int, sentence: str, run: Path, recipe: str, settings: list[object]) -> None:
    say(number, f"{sentence}: {run}", done=finished(run))
    if finished(run):
        return
    if run_checkpoints(run):
        run_command("train", "--resume", run, *settings)
    else:
        run_command("train", ROOT / "recipes/music" / recipe, *settings, "-o", run)


def kept(path: Path) -> Path:
    """What `audiovae sample` leaves of a song that was stopped."""
    return path.with_suffix(".partial.npz")


def write_report(folder: Path, songs: list[Path], seconds: list[float]) -> None:
    """The page: the songs, the measures, the course of training."""
    parameters = sum(p.numel() for name in ("codec", "top", "bottom") for p in
                     load_model(find_checkpoint(folder / name)).parameters())
    page = Report("New music, from nothing",
                  lead=f"Codes at two levels and a prior for each, {parameters / 1e6:.1f} million parameters, trained "
                       "for 5 minutes on music that a small program composed. It proves that the pipeline runs, and is "
                       "no measure of music.")
    page.section("Listen")
    for path in songs:
        wave, rate = read_audio(path)
        page.audio(path.stem, wave, rate)
    if seconds:
        page.text(f"A minute of music took {max(seconds):.0f} s to draw, loading and the pages of the songs included.")
    page.section("Measures")
    for caption, table in measure((folder / "top", folder / "bottom"), songs=4, pieces=6, seconds=20.0):
        print(f"\n{caption}\n{table.text()}")
        page.table(table, caption)
    page.section("Training")
    page.figure("Slow codes: bits a code", draw_loss(folder / "top/log.jsonl", ["bits_per_dimension"]))
    page.figure("Fast codes: bits a code", draw_loss(folder / "bottom/log.jsonl", ["bits_per_dimension"]))
    page.write(folder / "report.html")


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "music")))
    except (AudiovaeError, subprocess.CalledProcessError) as error:
        sys.exit(f"music: {error}")
