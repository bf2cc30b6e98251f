"""Files that exist whole or not at all, and folders that one process at a time writes to."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import RunError, UsageError, first_line, require
from ..nn.saved import metadata
from .schema import check

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Calls `save` with a temporary file beside `path`, then renames it to `path`.

    An interrupted or failed `save` leaves what was at `path` before.

    Raises:
        RunError: the disk is full, say, or the folder cannot be written to.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            save(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or first_line(error)}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_safetensors(path: Path, model: Any) -> None:
    """Writes the state dict of a model as safetensors, with the shapes of its sparse weights."""
    safetensors, save_model = require("safetensors"), require("safetensors.torch").save_model
    try:
        write(path, lambda file: save_model(model, str(file), metadata=metadata(model)))
    except safetensors.SafetensorError as error:  # which it makes of what the system says
        raise RunError(f"cannot write {path}: {first_line(error)}") from error


def write_text(path: Path, text: str) -> None:
    write(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_lines(path: Path, values: list) -> None:
    """Writes one JSON document a line."""
    write_text(path, "".join(json.dumps(value) + "\n" for value in values))


def read_json(path: Path, schema: Any = None) -> Any:
    """Reads the JSON document at `path`.

    Args:
        schema: what it has to look like, see `schema.py`.

    Raises:
        UsageError: there is no such file, it holds no JSON, or something that does not fit the schema.
    """
    value = _parsed(path, json.loads)
    check(value, schema, str(path))
    return value


def read_lines(path: Path, schema: Any = None) -> list:
    """Reads the JSON documents at `path`, one a line, each of `schema`; raises like `read_json`."""
    values = _parsed(path, lambda text: [json.loads(line) for line in text.splitlines()])
    for number, value in enumerate(values, 1):
        check(value, schema, f"line {number} of {path}")
    return values


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}: {first_line(error)}") from error


def folder(path: Path) -> Path:
    """Creates a folder; raises a `UsageError` if it cannot be written to."""
    try:
        if path.is_file():
            raise UsageError(f"cannot write to {path}: expected a folder, but it is a file")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror or error}") from error
    return path


@contextmanager
def locked(path: Path, names: list[str]) -> Iterator[None]:
    """Keeps a folder for this process as long as the context lasts; the lock vanishes with the process, however that
    ends. What killed processes left of files `names`, half written, is removed.

    Raises:
        UsageError: another process has it, or it cannot be written to.
    """
    try:
        lock = _lock(path)
        for name in names:
            for file in path.glob(f".{name}.*"):
                file.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            (path / LOCK).unlink()
        lock.close()


def _lock(path: Path) -> IO[bytes]:
    """Returns the locked file `path/.lock`, whose name is still that of this file: who unlocks it removes it first."""
    while True:
        file = (path / LOCK).open("a+b", buffering=0)
        if fcntl is None:
            return file
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = file.read().decode(errors="replace")
                file.close()
                by = f"process {holder}" if holder.isdecimal() else "another process"
                raise UsageError(
                    f"{path} is in use: {by} writes to it; wait for it, or choose another folder"
                ) from error
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), (path / LOCK).stat()):
                break
        file.close()
    with suppress(OSError):  # a full disk keeps nobody from resuming
        file.truncate(0)
        file.write(str(os.getpid()).encode())
    return file
