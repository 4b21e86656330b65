"""Lists what a pickle asks for, by reading its opcodes; nothing is built or called."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import IO

STRING_OPCODES = ("UNICODE", "UNICODE8", "STRING")
MEMO_OPCODES = ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT")

LARGEST_MEMO_GAP = 1000
"""How far a memo's index may exceed the number of opcodes so far; picklers increase it by one at a time."""


def pickled_globals(path: Path) -> set[str]:
    """Return the dotted names of all classes and functions that a PyTorch file's pickles ask for.

    Args:
        path: A zip checkpoint, or a file of pickles one after the other (PyTorch before 1.6, or plain pickle); a
            damaged file gives the names up to the damage.
    """
    names: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".pkl"):
                        with archive.open(member) as stream:
                            _scan(stream, names)
        else:
            with path.open("rb") as stream:
                while stream.read(1) == b"\x80":
                    stream.seek(-1, 1)
                    _scan(stream, names)
    # pickletools raises many types on damaged input; what was found before still counts.
    except Exception:
        return names
    return names


def check_memo(stream: IO[bytes]) -> None:
    """Raise UnpicklingError if a pickle numbers its memo beyond what it can hold: the unpickler would reserve that.

    The stream is left where it was.
    """
    start = stream.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(argument)) > count + LARGEST_MEMO_GAP:
            raise pickle.UnpicklingError(f"the memo index {argument}")
    stream.seek(start)


def _scan(stream: IO[bytes], names: set[str]) -> None:
    """Add the names that one pickle asks for to `names`."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    previous = ""
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            names.add(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]) or "an unknown function")
        elif opcode.name.endswith(STRING_OPCODES):
            strings.append(str(argument))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = previous
        elif opcode.name in MEMO_OPCODES:
            memo[int(str(argument))] = previous
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET") and memo.get(int(str(argument))):
            strings.append(memo[int(str(argument))])
        if opcode.name not in MEMO_OPCODES:
            previous = str(argument) if isinstance(argument, str) and not opcode.name.endswith("GLOBAL") else ""
