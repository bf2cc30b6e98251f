"""Notebooks as pages: executed, with their outputs.

`python -m docs.site.notebooks` writes the outputs into the notebooks themselves, to be seen
without running them.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Executes a notebook; returns it as Markdown, and its pictures by their names.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    text, resources = MarkdownExporter().from_notebook_node(_executed(path))
    pictures = {name: f"{path.stem}-{name}" for name in resources["outputs"]}
    for name, own in pictures.items():
        text = text.replace(f"]({name})", f"]({own})")
    return text, {own: resources["outputs"][name] for name, own in pictures.items()}


def _executed(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


def main() -> int:
    for path in NOTEBOOKS:
        nbformat.write(_executed(path), path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
