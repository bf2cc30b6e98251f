"""Text tables and quantities."""

from collections.abc import Collection


def table(cells: list[list[str]], right: Collection[int] = ()) -> str:
    """Aligned columns, those whose number is in `right` to the right."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        columns = (
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(columns).rstrip())
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes in the unit a reader expects."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
