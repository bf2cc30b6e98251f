"""A page for each method, from its docstring, its entry in the list, and the committed results.

`python -m docs.site.methods` writes the table of docs/methods.md anew, which tests compare with the list.
"""

import sys
from collections.abc import Callable
from inspect import Parameter, getsourcefile, signature, unwrap
from itertools import groupby
from pathlib import Path
from typing import Any

import sparsekern as sk
from benchmarks.tables import put
from docs.site import docstrings, results
from sparsekern.bench.markdown import table

ROOT = Path(__file__).parents[2]
FOLDER = "docs/methods"
GUIDE = ROOT / "docs" / "methods.md"
NAMES = [name for name in sk.methods.names() if hasattr(sk.methods, name)]  # those of this package

USE = """\
```python
method = sk.methods.{name}({sparsity}total_steps=steps, steps_per_epoch=steps // epochs)
model = sk.sparsify(model, method{batches})
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = sk.Sparsifier(model, optimizer, method)
```

```sh
sparsekern train --method {name}{flag}
```
"""


def pages() -> dict[str, str]:
    """Returns the pages by their path in the repository's layout: a list of all methods, and one of each."""
    return {f"{FOLDER}/index.md": _list(), **{f"{FOLDER}/{name}.md": page(name) for name in sorted(NAMES)}}


def page(name: str) -> str:
    """Returns the page of a method."""
    method, facts = sk.methods.get(name), sk.methods.describe(name)
    parts = [
        f"# {name}",
        f"**{facts['title']}.** {_paper(method, facts)}".strip(),
        _facts(name, facts),
        usage(name),
        "## What it computes",
        docstrings.text(method),
        "## Options",
        _options(method),
        "## Measured",
        results.of(name),
    ]
    return "\n\n".join(parts) + "\n"


def usage(name: str) -> str:
    """Returns the lines by which a method is used."""
    given = signature(sk.methods.get(name)).parameters["sparsity"].default is Parameter.empty  # others find their own
    return USE.format(
        name=name,
        sparsity="0.9, " if given else "",
        batches=", batches=batches, loss=loss_fn" if sk.methods.describe(name)["needs_batches"] else "",
        flag=" --sparsity 0.9" if given else "",
    ).strip()


def keeps() -> str:
    """Returns the table of what each method keeps in memory, and of the gradient that it needs."""
    facts = [sk.methods.describe(name) for name in NAMES]

    def kept(row: dict[str, Any]) -> tuple[str, str]:
        return row["storage"], row["gradient"]

    order = list(dict.fromkeys(map(kept, facts)))
    rows = groupby(sorted(facts, key=lambda row: order.index(kept(row))), kept)
    lines = [[" ".join(f"`{row['name']}`" for row in group), *both] for both, group in rows]
    head = ["methods", "in memory while training", "gradient of the weights"]
    return table(head, lines).replace("---:", "---")


def written() -> str:
    """Returns docs/methods.md with the table as the list of methods has it."""
    return put(GUIDE.read_text(), "keeps", keeps())


def _paper(method: Any, facts: dict[str, Any]) -> str:
    if not facts["paper"]:
        return ""
    number = docstrings.arxiv(method)
    link = f"[arXiv {number}](https://arxiv.org/abs/{number})" if number else ""
    named = facts["paper"].replace(f"arXiv {number}", "").strip(" ,")
    return ", ".join(part for part in (named, str(facts["year"] or ""), link) if part) + "."


def _facts(name: str, facts: dict[str, Any]) -> str:
    method: Any = sk.methods.get(name)
    variants = [other for other in NAMES if sk.methods.get(other).base == name]  # type: ignore[attr-defined]
    source = Path(getsourcefile(unwrap(method)) or "").relative_to(ROOT)
    rows = {
        "in memory while training": facts["storage"],
        "gradient of the weights": facts["gradient"],
        "the pattern changes": facts["changes"],
        "batches of data before training": "yes" if facts["needs_batches"] else "",
        "structured patterns": facts["structures"] and f"{facts['structures']}: `structure=`",
        "a variant of": method.base and f"[`{method.base}`]({method.base}.md)",
        "variants": ", ".join(f"[`{other}`]({other}.md)" for other in variants),
        "source": f"`{source}`",
    }
    return table(["", ""], [[key, value] for key, value in rows.items() if value]).replace("---:", "---")


def _options(method: Callable[..., Any]) -> str:
    found = docstrings.options(method)
    said = [f"`{name}` = `{option.default!r}`\n:   {what}" for name, (option, what) in found.items()]
    return "\n\n".join(said) or "None."


def _list() -> str:
    lines = []
    for name in NAMES:
        facts = sk.methods.describe(name)
        paper = f"{facts['paper']} {facts['year'] or ''}".strip() if facts["paper"] else ""
        lines.append([f"[`{name}`]({name}.md)", facts["title"], facts["changes"], paper])
    rows = table(["method", "", "the pattern changes", "paper"], lines).replace("---:", "---")
    intro = "[Which one to take, and what each keeps](../methods.md). Every page is made from the method's docstring."
    return f"# All methods\n\n{intro}\n\n{rows}\n"


def main() -> int:
    GUIDE.write_text(written())
    return 0


if __name__ == "__main__":
    sys.exit(main())
