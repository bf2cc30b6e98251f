"""Images in folders, one folder a class."""

from dataclasses import replace
from pathlib import Path

import torch

from ..errors import UsageError
from .in_memory import photographs
from .interface import Data
from .pictures import decode, read_all
from .streaming import streaming

SMALL = 64
EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}

# What a folder holds: its images and their classes.
Listing = tuple[list[Path], list[int]]


def imagefolder(config: dict, download: bool) -> Data:
    """Returns the images of `train/CLASS/*` and `val/CLASS/*` (or `test/`).

    Images of one size of at most 64 x 64 pixels stay in memory and are augmented like CIFAR; others are read anew in
    every epoch, augmented like ImageNet.
    """
    if not config["data_dir"]:
        raise UsageError("--data imagefolder needs --data-dir FOLDER with train/CLASS/* and val/CLASS/* in it")
    root = Path(config["data_dir"])
    test = next((root / name for name in ("val", "test") if (root / name).is_dir()), root / "val")
    classes = _classes(root / "train")
    if unknown := sorted(set(_classes(test)) - set(classes)):
        raise UsageError(f"{test} has the class {unknown[0]!r}, which {root / 'train'} has not")
    if len(classes) == 1:
        raise UsageError(f"{root / 'train'} holds one class only, {classes[0]!r}")
    return _data(_list(root / "train", classes, all_of=True), _list(test, classes), classes)


def tiny_imagenet(config: dict, download: bool) -> Data:
    """Returns Tiny ImageNet, 100,000 + 10,000 images of 64 x 64 pixels in 200 classes, from its unpacked archive."""
    root = Path(config["data_dir"] or "data")
    root = next((path for path in (root / "tiny-imagenet-200", root) if (path / "train").is_dir()), root)
    if not (root / "val" / "val_annotations.txt").is_file():
        raise UsageError(
            f"no Tiny ImageNet in {root}: expected train/CLASS/images/* and val/val_annotations.txt; unpack "
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip and give the folder with --data-dir"
        )
    classes = _classes(root / "train")
    paths, labels = [], []
    for line in (root / "val" / "val_annotations.txt").read_text(errors="replace").splitlines():
        name, wnid = line.split("\t")[:2] if line.count("\t") else (line, "")
        if wnid not in classes:
            raise UsageError(f"{root / 'val' / 'val_annotations.txt'} is damaged: no class in the line {line!r}")
        paths.append(root / "val" / "images" / name)
        labels.append(classes.index(wnid))
    return _data(_list(root / "train", classes), (paths, labels), classes)


def _classes(folder: Path) -> list[str]:
    found = folder.iterdir() if folder.is_dir() else ()
    names = sorted(path.name for path in found if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise UsageError(f"no folders of classes in {folder}; expected {folder}/CLASS/*")
    return names


def _list(folder: Path, classes: list[str], all_of: bool = False) -> Listing:
    """Returns the images of classes; raises if there are none, or in one of them where `all_of` them need some."""
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if _is_image(path.relative_to(folder / name)))
        if all_of and not found:
            raise UsageError(f"no images in {folder / name}: remove the folder if there is no such class")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise UsageError(f"no images in {folder}; known are {', '.join(sorted(EXTENSIONS))}")
    return paths, labels


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def _data(train: Listing, test: Listing, classes: list[str]) -> Data:
    size = decode(train[0][0]).shape
    if max(size[1:]) <= SMALL:
        images = [read_all(paths, size) for paths, _ in (train, test)]
        if images[0] is not None and images[1] is not None:
            labels = [torch.tensor(labels) for _, labels in (train, test)]
            data = photographs(images[0], labels[0], images[1], labels[1], len(classes))
            return replace(data, names=tuple(classes))
    return replace(streaming(train, test, len(classes)), names=tuple(classes))
