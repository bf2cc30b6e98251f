"""Checksums inside the files of a run, so that a damaged one is never resumed.

A checkpoint is the zip file that `torch.save` writes, with the SHA-256 of that as its comment: the two are one file,
which `torch.load` reads as any other. A summary carries that of its other members under "checksum".
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import torch

from ..errors import UsageError

MARK = b"sparsekern sha256 "
TRAILER = len(MARK) + 64
KEY = "checksum"


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return _digest(file, path.stat().st_size)


def _digest(file: IO[bytes], size: int, end: bytes = b"") -> str:
    """Returns the checksum of the next `size` bytes and `end`."""
    total = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 2**20))):
        total.update(block)
        size -= len(block)
    total.update(end)
    return total.hexdigest()


class _Hashed:
    """A file to `torch.save` into, which tells the checksum of what was written, and why it could not be."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.total = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.total.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save(path: Path, state: dict) -> None:
    """Writes a checkpoint; raises an OSError if the disk is full."""
    with path.open("wb", buffering=0) as file:
        hashed = _Hashed(file)
        try:
            torch.save(state, cast(IO[bytes], hashed))
        except RuntimeError as error:  # which torch makes of an OSError
            raise hashed.error or error from error
        file.seek(-2, 2)  # the length of the comment, which is the last thing in a zip file
        file.write(TRAILER.to_bytes(2, "little"))
        file.write(MARK + hashed.total.hexdigest().encode())


def load(path: Path) -> Any:
    """Reads a checkpoint, checked before anything in it is looked at.

    Raises:
        ValueError: it is damaged. What its bytes happen to mean may raise anything else.
        OSError: there is no such file.
    """
    with path.open("rb") as file:
        if not sealed(path):
            _check_members(file)
        else:
            size = path.stat().st_size - TRAILER
            found = _digest(file, size - 2, b"\0\0")
            length, trailer = file.read(2), file.read()
            if length != TRAILER.to_bytes(2, "little") or trailer != MARK + found.encode():
                raise ValueError("its checksum is another")
    return torch.load(path, map_location="cpu", weights_only=True)


def sealed(path: Path) -> bool:
    """Tells whether a file ends with the checksum of a checkpoint; those of release 0.1 have none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TRAILER))
        return file.read().startswith(MARK)


def _check_members(file: IO[bytes]) -> None:
    """Checks the checksums that a zip file has anyway; torch does not look at them."""
    with zipfile.ZipFile(file) as archive:
        if archive.comment or (bad := archive.testzip()):
            raise ValueError("its checksum is damaged" if archive.comment else f"the checksum of {bad} is another")


def stamp(value: dict) -> dict:
    """Returns the object with its checksum."""
    return value | {KEY: _of(value)}


def stamped(value: dict, where: str, required: bool) -> dict:
    """Returns the object without its checksum.

    Raises:
        UsageError: the checksum is another, or `required` and missing.
    """
    if KEY not in value and required:
        raise UsageError(f"{where} is damaged: {KEY} is missing")
    rest = {key: member for key, member in value.items() if key != KEY}
    if KEY in value and value[KEY] != _of(rest):
        raise UsageError(f"{where} is damaged: its {KEY} is another")
    return rest


def _of(value: dict) -> str:
    text = json.dumps({key: member for key, member in value.items() if key != KEY}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
