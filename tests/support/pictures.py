"""Tiny data sets in their true formats."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

GENERATOR = np.random.default_rng


def cifar10(root: Path, train: int = 40, test: int = 20) -> Path:
    """CIFAR-10 as its archive unpacks; returns its folder."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, (name, n) in enumerate([*((f"data_batch_{i}", train // 5) for i in range(1, 6)), ("test_batch", test)]):
        images, labels = learnable(seed, n, 10)
        entry = {"data": images.reshape(n, -1), "labels": labels.tolist(), "batch_label": name, "filenames": [""] * n}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    return folder


def cifar100(root: Path, train: int = 200, test: int = 100) -> Path:
    """CIFAR-100 as its archive unpacks; returns its folder."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for seed, (name, n) in enumerate((("train", train), ("test", test))):
        images, labels = learnable(seed, n, 100)
        entry = {"data": images.reshape(n, -1), "fine_labels": labels.tolist(), "coarse_labels": [0] * n}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    return folder


def learnable(seed: int, n: int, classes: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Noise `[n, 3, size, size]`, uint8, brighter or darker in the channels that the class says."""
    generator = GENERATOR(seed)
    labels = np.arange(n) % classes
    levels = 40 + 160 * GENERATOR(0).random((classes, 3, 1, 1))
    return (levels[labels] + generator.integers(0, 50, (n, 3, size, size))).astype(np.uint8), labels


def folders(root: Path, sizes: list[tuple[int, int]], test: str = "val", per_class: int = 3) -> Path:
    """`train/CLASS/*.png` and `val/CLASS/*.png`, two classes; `sizes` (width, height) in turn."""
    generator = GENERATOR(0)
    for part, extra in (("train", 1), (test, 0)):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(per_class + extra):
                width, height = sizes[i % len(sizes)]
                pixels = generator.integers(100 * label, 100 * label + 100, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def tiny_imagenet(root: Path, classes: tuple[str, ...] = ("n01443537", "n01629819"), per_class: int = 3) -> Path:
    """Tiny ImageNet as its archive unpacks; returns its folder. The first image of every class is grey."""
    root = root / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for label, name in enumerate(classes):
        (root / "train" / name / "images").mkdir(parents=True)
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
        for i in range(per_class):
            grey = np.full((64, 64) if i == 0 else (64, 64, 3), 20 + 100 * label + i, np.uint8)
            Image.fromarray(grey).save(root / "train" / name / "images" / f"{name}_{i}.JPEG")
        Image.fromarray(grey).save(root / "val" / "images" / f"val_{label}.JPEG")
        lines.append(f"val_{label}.JPEG\t{name}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(reversed(lines)) + "\n")
    return root
