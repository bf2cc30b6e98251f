"""Tables and quantities, for a terminal and for notebooks."""

import re
from collections.abc import Collection
from html import escape


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


def html(cells: list[list[str]], right: Collection[int] = ()) -> str:
    """Returns the same as a table for a notebook; the first row is its head."""

    def row(cells: list[str], tag: str) -> str:
        sides = ("right" if i in right else "left" for i in range(len(cells)))
        parts = (
            f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    head, *body = cells
    return f"<table><thead>{row(head, 'th')}</thead><tbody>{''.join(row(cell, 'td') for cell in body)}</tbody></table>"


def size(count: float) -> str:
    """Formats a number of bytes in the unit a reader expects."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def counted(count: int, noun: str) -> str:
    """Returns a count with its noun: "1 epoch", "2 epochs"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def file_name(text: str) -> str:
    """Replaces path separators in a name by hyphens: that of a method may be the place of a file."""
    return re.sub(r"[/\\:]+", "-", text).strip("-")
