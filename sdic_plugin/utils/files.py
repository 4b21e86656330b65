"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sdic_plugin.errors import CheckpointError, EditError, SDICError, reason_of, shorten


@contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
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


def check_output_folder(folder: str | os.PathLike[str]) -> None:
    """Raise SDICError unless a folder can be made and written; called before the work whose results go there.

    Leaves nothing behind, not even the folder.
    """
    reason = why_not_writable(folder)
    if reason is not None:
        raise _not_writable(f"The folder {shorten(str(folder))} cannot be made or written", reason)


def check_output_file(path: str | os.PathLike[str]) -> None:
    """Raise SDICError unless a file can be written, its folder made if needed; see `check_output_folder`."""
    if os.path.isdir(path):
        raise SDICError(f"The results would be written to {shorten(str(path))}, which is a folder: name a file in it.")
    absolute = Path(os.path.abspath(path))
    reason = why_not_writable(absolute.parent, absolute.name)
    if reason is not None:
        raise _not_writable(f"The file {shorten(str(path))} cannot be written", reason)


def check_edits_name(path: Path) -> None:
    """Raise EditError unless a set of edits may be called so."""
    if path.suffix != ".safetensors":
        raise EditError(
            f"The set would be written to {shorten(path.name)}, but sets of edits end in .safetensors: name it so."
        )


def _not_writable(what: str, reason: str) -> SDICError:
    return SDICError(f"{what} ({reason}): choose another place for the results.")


def why_not_writable(folder: str | os.PathLike[str], name: str = "") -> str | None:
    """Say why a folder cannot be made and written to, or no file `name` in it; None if it can. Nothing stays behind.

    The probe is a file in the deepest folder that exists, made and removed again, as permission bits say little: to
    root, on read-only disks, in /proc.
    """
    nearest, missing = Path(os.path.abspath(folder)), [name] if name else []
    try:
        while not _exists(nearest):
            missing.append(nearest.name)
            nearest = nearest.parent
        for each in missing:
            _exists(nearest / each)  # may be longer than the file system allows
        if missing and nearest.exists() and not nearest.is_dir():
            return f"{shorten(str(nearest))} is no folder"
        new_file_mode(nearest)
    except (OSError, ValueError) as error:
        return reason_of(error)
    return None


def _exists(path: Path) -> bool:
    """Whether there is something at a path, a dangling link too; OSError if the system cannot say."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def replacing_folder(output: Path) -> Iterator[Path]:
    """Give an empty folder beside `output`, which takes its place once the block is left without an error.

    Raises:
        CheckpointError: If writing fails; what was at `output` before is then still there, and nothing else.
    """
    output = output.resolve()
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        share_files(temporary)
        _swap(temporary, output)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The output {output.name} could not be written ({error}): check the free space and the permissions of "
            "its folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, output: Path) -> None:
    """Put `temporary` in the place of `output`, or leave `output` as it was."""
    if not output.exists():
        temporary.rename(output)
        return
    previous = output.with_name(f".{output.name}.{secrets.token_hex(4)}.previous")
    output.rename(previous)
    try:
        temporary.rename(output)
    except BaseException:
        previous.rename(output)
        raise
    shutil.rmtree(previous, ignore_errors=True)
