"""Texts as bytes: what comes next is predicted at every position, with 256 classes and no tokenizer."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError, first_line
from .interface import WHOLE, Data

BYTES = 256
BINARY = 8192  # a file with a zero among so many first bytes is none of text
LIBRARY = """"$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/*.py\""""


@dataclass(frozen=True)
class Text:
    """A `Split` of `text`, uint8 `[n]`: windows of `context` bytes, and for each of these the byte that follows it.

    A pass goes over the text once. To train on, where the first window begins is drawn anew for every pass.
    """

    text: Tensor
    context: int
    shifted: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.context,)

    def __len__(self) -> int:
        return max(0, (len(self.text) - 1) // self.context - self.shifted)

    def to(self, device: torch.device) -> "Text":
        return Text(self.text.to(device), self.context, self.shifted)

    def batches(
        self, rows: Tensor, size: int, generator: torch.Generator, part: slice = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        first = int(torch.randint(self.context, (), generator=generator)) if self.shifted else 0
        window = torch.arange(self.context + 1, device=self.text.device)
        for batch in rows.to(self.text.device).split(size):
            starts = first + self.context * batch[part]
            found = self.text[starts[:, None] + window].long()
            yield found[:, :-1], found[:, 1:]


def text(config: dict, download: bool) -> Data:
    """Returns a file, the files of a folder, or those of a pattern, bytes one after the other in the order of names.

    The last tenth of each file is to test on, the same for every seed.
    """
    if not config["data_dir"]:
        raise UsageError(
            "--data text needs --data-dir FILE, FOLDER or PATTERN, say the sources of Python's standard library: "
            f"--data-dir {LIBRARY}"
        )
    source, context = config["data_dir"], config["context"]
    files = _read(Path(source))
    cuts = [len(file) - len(file) // 10 for file in files]
    train = b"".join(file[:cut] for file, cut in zip(files, cuts, strict=True))
    test = b"".join(file[cut:] for file, cut in zip(files, cuts, strict=True))
    if len(train) <= 2 * context or len(test) <= context:
        raise UsageError(
            f"{source} has {len(train):,} bytes to train on and {len(test):,}, a tenth of each file, to test on; a "
            f"--context of {context} needs {2 * context + 1:,} and {context + 1:,}"
        )
    return Data(_split(train, context, True), _split(test, context, False), BYTES, tokens=True)


def _split(content: bytes, context: int, shifted: bool) -> Text:
    return Text(torch.frombuffer(bytearray(content), dtype=torch.uint8), context, shifted)


def _read(source: Path) -> list[bytes]:
    """Reads a file whatever it holds; of a folder or a pattern, which files are text."""
    try:
        if source.is_file():
            return [source.read_bytes()]
        if source.is_dir():
            paths = [path for path in source.rglob("*") if not _hidden(path.relative_to(source))]
        else:
            paths = [Path(name) for name in glob.glob(str(source), recursive=True)]
        found = [content for path in sorted(paths) if path.is_file() and (content := _text(path)) is not None]
    except OSError as error:
        raise UsageError(f"cannot read {source}: {first_line(error)}") from error
    if not found and not glob.has_magic(str(source)) and not source.exists():
        raise UsageError(f"there is no file or folder {source}")
    if not found:
        raise UsageError(f"no text in {source}: expected a file, a folder or a pattern of files in UTF-8")
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _text(path: Path) -> bytes | None:
    """Returns what a file holds, None unless it is UTF-8."""
    with path.open("rb") as file:
        first = file.read(BINARY)
        if b"\0" in first:
            return None
        content = first + file.read()
    try:
        content.decode()
    except UnicodeDecodeError:
        return None
    return content
