"""Writes the source of the site to build/site/: pages, and the configuration by which `zensical build` makes HTML.

Pages lie there as in the repository, so that links between them are the same here and there. `README.md` is the start
page. Where the navigation of mkdocs.yml names a folder, it gets all pages that are generated there.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from docs.site import docstrings, methods, notebooks, reference

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "site"
PAGES = ("*.md", "docs/*.md", "csrc/*/*.md", "benchmarks/*.md", "benchmarks/results/**/*.md")
OTHERS = (
    "docs/*.svg",
    "docs/pictures/*.png",
    "docs/site/*.css",
    "benchmarks/results/**/*.json",
    "benchmarks/results/**/*.png",
)
PICTURE = re.compile(r"!\[[^]]*\]\(([^):]+)\)")
METHODS = ("methods.md", "which-method.md")  # where every name that a method has means it


def main() -> int:
    shutil.rmtree(OUT, ignore_errors=True)
    pages, generated = OUT / "pages", {**methods.pages(), **reference.pages()}
    for path in (path for glob in PAGES for path in ROOT.glob(glob)):
        name = path.relative_to(ROOT).as_posix()
        _write(pages / ("index.md" if name == "README.md" else name), linked(path))
    for path in (path for glob in OTHERS for path in ROOT.glob(glob)):
        _write(pages / path.relative_to(ROOT), path.read_bytes())
    for path in notebooks.NOTEBOOKS:
        folder = path.parent.relative_to(ROOT).as_posix()
        text, pictures = notebooks.page(path)
        generated[f"{folder}/{path.stem}.md"] = text
        for name, content in pictures.items():
            _write(pages / folder / name, content)
    for name, text in generated.items():
        _write(pages / name, text)
    if lost := missing(pages):
        print(f"docs.site: pictures that are not there: {', '.join(lost)}", file=sys.stderr)
        return 1
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    config["nav"] = expanded(config["nav"], list(generated))
    _write(OUT / "mkdocs.yml", yaml.safe_dump(config, sort_keys=False))
    return 0


def missing(pages: Path) -> list[str]:
    """Returns the pictures that pages show and the site lacks, which the builder of the site does not notice."""
    shown = {
        (page.parent / name).resolve() for page in pages.rglob("*.md") for name in PICTURE.findall(page.read_text())
    }
    return sorted(str(path.relative_to(pages.resolve())) for path in shown if not path.exists())


def linked(path: Path) -> str:
    """Returns a page of the repository: README.md is the start page, notebooks are pages, links to folders are
    none, and those pages that speak of methods alone have links to them."""

    def target(link: re.Match[str]) -> str:
        place = (path.parent / link[2]).resolve()
        if place == ROOT / "README.md":
            return link[0].replace("README.md", "index.md")
        return link[1] if place.is_dir() else link[0].replace(".ipynb", ".md")

    text = path.read_text()
    if path.name in METHODS:
        text = docstrings.linked(text, folder="methods/")
    return re.sub(r"\[([^]]*)\]\(([^)#:]+)(?:#[\w-]*)?\)", target, text)


def expanded(nav: list[Any], generated: list[str]) -> list[Any]:
    """Returns the navigation with pages in place of folders."""
    found: list[Any] = []
    for entry in nav:
        ((title, inside),) = entry.items() if isinstance(entry, dict) else ((None, entry),)
        if isinstance(inside, list):
            found.append({title: expanded(inside, generated)})
        elif inside.endswith("/"):
            found.append({title: [name for name in generated if name.startswith(inside)]})
        else:
            found.append(entry)
    return found


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


if __name__ == "__main__":
    sys.exit(main())
