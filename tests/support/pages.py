"""The pages of the documentation, and the Python in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("csrc/**/*.md"), ROOT / "benchmarks" / "README.md"]
)


def snippets(page: str) -> list[str]:
    """Returns the blocks of Python of a page, by its path in the repository."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
