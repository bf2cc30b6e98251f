"""Columns and quantities for a terminal."""

import re
from collections.abc import Collection


def columns(cells: list[list[str]], right: Collection[int] = ()) -> str:
    """Aligns the cells of each column; those whose number is in `right` to the right."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        aligned = (
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def size(count: float) -> str:
    """Formats a number of bytes in the unit a reader expects."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def file_name(text: str) -> str:
    """Returns a name with nothing in it that parts a path: that of a method may be the place of a file."""
    return re.sub(r"[/\\:]+", "-", text).strip("-")
