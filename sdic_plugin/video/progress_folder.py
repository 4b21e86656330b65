"""What a run keeps beside its output until that is whole, so that the same command goes on after it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from sdic_plugin.errors import SDICError, shorten
from sdic_plugin.utils.files import replacing_file
from sdic_plugin.video.track import Track

PIECE_FRAMES = 240
"""Frames of a piece: what a stopped run loses at most."""


class ProgressFolder:
    """The folder `NAME.progress` beside the output; only one process at a time has it.

    Args:
        output: The video to be written.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self.path = output.with_name(f"{output.name}.progress")
        self._made: list[Path] = []
        self._lock = FileLock(self.path / "lock", blocking=False)

    def __enter__(self) -> ProgressFolder:
        """Make the folder, or take up what is in it.

        Raises:
            SDICError: If another process works in it.
        """
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise SDICError(
                f"Another process is writing {shorten(str(self._output))}: wait for it, or name another file."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let others have it; a folder with nothing in it goes."""
        self._lock.release()
        if not any(path.name != "lock" for path in self.path.iterdir()):
            self._remove_folder()

    def load_track(self, settings: str, whole: bool = True) -> Track | None:
        """Return the track that was found with the same settings, or the first part of it, if there is one."""
        if self._noted().get("track") != settings:
            return None
        track = Track.load(self._track)
        return track if track is not None and (track.state is None) == whole else None

    def save_track(self, track: Track, settings: str, whole: bool = True) -> None:
        """Keep a track, or the first part of it; the pieces that belong to another one go."""
        self._remove([*([] if self._noted().get("track") == settings else ["run.json"]), *self._pieces()])
        track.save(self._track)
        self._note({"track": settings})

    def begin(self, settings: str) -> None:
        """Keep the pieces that were made with the same settings; others go."""
        noted = self._noted()
        if noted.get("pieces") != settings:
            self._remove(self._pieces())
            self._note({**noted, "pieces": settings})
        self._remove([name for name in self._pieces() if not name.endswith(".nut")])

    def piece(self, start: int) -> Path:
        """File of the piece that begins with a frame."""
        return self.path / f"piece_{start:07d}.nut"

    def done(self, count: int) -> list[Path]:
        """Pieces of a video of `count` frames that are whole, from the first on without a gap."""
        starts = [self.piece(start) for start in range(0, count, PIECE_FRAMES)]
        missing = next((i for i, path in enumerate(starts) if not path.is_file()), len(starts))
        return starts[:missing]

    def remove(self) -> None:
        """Remove all that was kept; called once the output is whole."""
        self._remove(["run.json", self._track.name, *self._pieces()])

    @property
    def _track(self) -> Path:
        return self.path / "track.npz"

    def _pieces(self) -> list[str]:
        return [path.name for path in self.path.glob("piece_*.nut*")]

    def _noted(self) -> dict[str, str]:
        try:
            noted = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _note(self, values: dict[str, str]) -> None:
        with replacing_file(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(values), encoding="utf-8")

    def _remove(self, names: list[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def _remove_folder(self) -> None:
        (self.path / "lock").unlink(missing_ok=True)
        try:
            for folder in dict.fromkeys([self.path, *self._made]):
                folder.rmdir()
        except OSError:  # there is something in it, such as the output
            pass
