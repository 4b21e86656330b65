"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdic_plugin.errors import SDICError, reason_of, shorten


@contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` if the block ends well.

    The folder is made if needed; whatever happens, no temporary file stays. The file gets the permissions that one
    written in the ordinary way would have: those of the file it replaces, else those of a new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    mode = path.stat().st_mode & 0o777 if path.is_file() else new_file_mode(path.parent)
    try:
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def new_file_mode(folder: Path) -> int:
    """Return the permissions that a new file in a folder gets, by making one: the umask itself is the process's."""
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(probe, "xb") as file:
            return os.fstat(file.fileno()).st_mode & 0o777
    finally:
        probe.unlink(missing_ok=True)


def share_files(folder: Path) -> None:
    """Give all files of a folder the permissions of new ones; safetensors makes its files private to the user."""
    mode = new_file_mode(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def check_output_folder(folder: str | os.PathLike) -> None:
    """Raise SDICError unless a folder can be made and written; called before the work whose results go there.

    Leaves nothing behind, not even the folder. The probe is a file in the deepest folder that exists, made and removed
    again, as permission bits say little: to root, on read-only disks, in /proc.
    """
    _check_output(Path(os.path.abspath(folder)), f"The folder {shorten(str(folder))} cannot be made or written")


def check_output_file(path: str | os.PathLike) -> None:
    """Raise SDICError unless a file can be written, its folder made if needed; see `check_output_folder`."""
    if os.path.isdir(path):
        raise SDICError(f"The results would be written to {shorten(str(path))}, which is a folder: name a file in it.")
    absolute = Path(os.path.abspath(path))
    _check_output(absolute.parent, f"The file {shorten(str(path))} cannot be written", absolute.name)


def _check_output(folder: Path, what: str, name: str = "") -> None:
    try:
        missing = [name] if name else []
        while not _exists(folder):
            missing.append(folder.name)
            folder = folder.parent
        for each in missing:
            _exists(folder / each)  # may be longer than the file system allows
        new_file_mode(folder)
    except (OSError, ValueError) as error:
        raise SDICError(f"{what} ({reason_of(error)}): choose another place for the results.") from error


def _exists(path: Path) -> bool:
    """Whether there is something at a path, a dangling link too; OSError if the system cannot say."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True
