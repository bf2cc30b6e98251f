"""Images: CIFAR's files, folders, augmentation, and pictures read while training."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import pictures
from torch import Tensor

from sparsekern import data
from sparsekern.data import in_memory, streaming
from sparsekern.errors import UsageError


def load(name: str, folder: Path, **more: object) -> data.Data:
    return data.load({"data": name, "data_dir": str(folder), "target": None, "seed": 0, **more})


def batches(split: data.InMemory, size: int = 4, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(split.batches(torch.arange(len(split)), size, torch.Generator().manual_seed(seed)))


def test_cifar10(tmp_path: Path):
    pictures.cifar10(tmp_path)
    cifar = load("cifar10", tmp_path)
    assert cifar.facts == {"train": 40, "test": 20, "shape": [3, 32, 32], "classes": 10}
    images, labels = pictures.learnable(1, 8, 10)
    assert torch.equal(cifar.train.x[8:16], torch.from_numpy(images))
    assert torch.equal(cifar.train.y[8:16], torch.from_numpy(labels))


def test_cifar100_has_the_fine_labels(tmp_path: Path):
    pictures.cifar100(tmp_path)
    cifar = load("cifar100", tmp_path)
    assert cifar.facts == {"train": 200, "test": 100, "shape": [3, 32, 32], "classes": 100}
    assert torch.equal(cifar.train.y, torch.arange(200) % 100)


def test_images_are_normalised_by_the_training_images(tmp_path: Path):
    pictures.cifar10(tmp_path)
    cifar = load("cifar10", tmp_path)
    raw = cifar.train.x.double()
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3), correction=0)
    (x, _), *_ = batches(cifar.test)
    expected = (cifar.test.x[:4].double() - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(x.double(), expected, atol=1e-5, rtol=0)


def test_augmentation_is_a_padded_crop_and_a_flip():
    n = 200
    images = torch.randint(1, 256, (n, 2, 8, 6), dtype=torch.uint8)
    pixels = in_memory.Pixels(torch.zeros(2, 1, 1), torch.ones(2, 1, 1), augment=True)
    result = pixels(images, torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4)).float()
    seen = set()
    for image, found in zip(padded, result, strict=True):
        matches = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if torch.equal(window := image[:, top : top + 8, left : left + 6], found.flip(2) if flip else found)
            and window.any()
        ]
        assert matches
        seen.add(matches[0])
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert {flip for _, _, flip in seen} == {False, True}
    assert abs(sum(flip for _, _, flip in seen) / len(seen) - 0.5) < 0.2


def test_augmentation_depends_on_the_generator_only(tmp_path: Path):
    pictures.cifar10(tmp_path)
    train = load("cifar10", tmp_path).train
    first, again, other = batches(train), batches(train), batches(train, seed=1)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    test = load("cifar10", tmp_path).test
    assert torch.equal(batches(test)[0][0], batches(test, seed=1)[0][0])


def test_channels_that_are_constant():
    pixels = in_memory.Pixels.of(torch.full((5000, 3, 4, 4), 7, dtype=torch.uint8))
    assert torch.equal(pixels.mean.flatten(), torch.full((3,), 7.0))
    assert torch.equal(pixels.std.flatten(), torch.ones(3))


class Malice:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "labels", "malice"])
def test_damaged_cifar(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    file = pictures.cifar10(tmp_path) / "data_batch_3"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "labels":
        entry = pickle.loads(file.read_bytes())
        file.write_bytes(pickle.dumps(entry | {"labels": [10] * 8}))
    else:
        file.write_bytes(pickle.dumps({"data": Malice(), "labels": []}))
    with pytest.raises(UsageError, match="incomplete or damaged"):
        load("cifar10", tmp_path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet", "imagefolder"])
def test_images_that_are_not_there(name: str, tmp_path: Path):
    with pytest.raises(UsageError, match=r"--download|--data-dir|no folders of classes"):
        load(name, tmp_path)


@pytest.mark.parametrize("test", ["val", "test"])
def test_small_images_are_held(test: str, tmp_path: Path):
    pictures.folders(tmp_path, [(20, 12)], test)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / "._0.png").write_text("what a Mac leaves")
    folder = load("imagefolder", tmp_path)
    assert isinstance(folder.train, data.InMemory)
    assert folder.facts == {"train": 8, "test": 6, "shape": [3, 12, 20], "classes": 2, "names": ["cat", "dog"]}
    assert folder.train.x.dtype == torch.uint8
    assert folder.train.y.tolist() == [0] * 4 + [1] * 4
    assert int(folder.train.x[:4].max()) < 100 <= int(folder.train.x[4:].min())


def test_hidden_folders_hold_no_images(tmp_path: Path):
    pictures.folders(tmp_path, [(20, 12)])
    cats = tmp_path / "train" / "cat"
    for name in (".ipynb_checkpoints", "more"):
        (cats / name).mkdir()
        Image.new("RGB", (20, 12), "white").save(cats / name / "0.png")
    assert load("imagefolder", tmp_path).train.y.tolist() == [0] * 5 + [1] * 4


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pictures_of_16_bits_keep_their_upper_8(suffix: str, tmp_path: Path):
    wide = np.arange(12 * 20, dtype=np.uint16).reshape(12, 20) * 257
    pictures.folders(tmp_path, [(20, 12)])
    for file in tmp_path.glob("*/*/*"):
        Image.fromarray(wide).save(file.with_suffix(f".{suffix}"))
        if suffix != file.suffix[1:]:
            file.unlink()
    expected = torch.from_numpy((wide // 256).astype(np.uint8)).expand(3, 12, 20)
    assert torch.equal(load("imagefolder", tmp_path).train.x[3], expected)


def test_pictures_of_32_bits_are_refused(tmp_path: Path):
    pictures.folders(tmp_path, [(20, 12)])
    Image.fromarray(np.zeros((12, 20), np.float32)).save(tmp_path / "train" / "cat" / "0.tif")
    with pytest.raises(UsageError, match=r"0\.tif: expected 8 or 16 bits a channel, got 32"):
        load("imagefolder", tmp_path)


def test_large_images_are_read_while_training(tmp_path: Path):
    folder = load("imagefolder", pictures.folders(tmp_path, [(70, 50), (40, 90)]))
    assert not isinstance(folder.train, data.InMemory)
    assert folder.facts == {"train": 8, "test": 6, "shape": [3, 224, 224], "classes": 2, "names": ["cat", "dog"]}
    rows = torch.tensor([5, 0, 7])
    runs = [list(folder.train.batches(rows, 2, torch.Generator().manual_seed(seed))) for seed in (0, 0, 1)]
    assert [tuple(x.shape) for x, _ in runs[0]] == [(2, 3, 224, 224), (1, 3, 224, 224)]
    assert torch.cat([y for _, y in runs[0]]).tolist() == [1, 0, 1]
    first, again, other = (torch.cat([x for x, _ in run]) for run in runs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_augmentation_is_the_same_whatever_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    split = load("imagefolder", pictures.folders(tmp_path, [(70, 50)])).train
    state = torch.get_rng_state()
    results = []
    for workers in (1, 2):
        monkeypatch.setattr(streaming, "processors", lambda workers=workers: workers)
        results.append(torch.cat([x for x, _ in batches(split, 2)]))
    assert torch.equal(*results)
    assert torch.equal(torch.get_rng_state(), state)


def test_test_images_are_their_centre(tmp_path: Path):
    root = pictures.folders(tmp_path, [(256, 300)])
    image = Image.new("RGB", (256, 300), (0, 0, 0))
    image.paste((255, 255, 255), (16, 38, 240, 262))  # the central 224 x 224 pixels
    image.save(root / "val" / "cat" / "0.png")
    (x, _), *_ = batches(load("imagefolder", root).test, 1)
    white = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(x[0], white[:, None, None].expand(3, 224, 224), atol=1e-5, rtol=0)


def test_small_images_of_several_sizes_are_resized(tmp_path: Path):
    folder = load("imagefolder", pictures.folders(tmp_path, [(20, 12), (12, 12)]))
    assert folder.shape == (3, 224, 224)


def test_folders_that_do_not_fit(tmp_path: Path):
    root = pictures.folders(tmp_path, [(8, 8)])
    (root / "val" / "eel").mkdir()
    with pytest.raises(UsageError, match="'eel'"):
        load("imagefolder", root)
    (root / "val" / "eel").rmdir()
    (root / "train" / "dog" / "0.png").write_bytes(b"\x89PNG no")
    with pytest.raises(UsageError, match=r"dog/0\.png"):
        load("imagefolder", root)
    for image in root.glob("train/*/*.png"):
        image.unlink()
    with pytest.raises(UsageError, match="no images"):
        load("imagefolder", root)


@pytest.mark.parametrize("inside", [True, False])
def test_tiny_imagenet(inside: bool, tmp_path: Path):
    root = pictures.tiny_imagenet(tmp_path)
    tiny = load("tiny-imagenet", root if inside else tmp_path)
    names = ["n01443537", "n01629819"]
    assert tiny.facts == {"train": 6, "test": 2, "shape": [3, 64, 64], "classes": 2, "names": names}
    assert tiny.test.y.tolist() == [1, 0]
    assert [int(x.float().mean().round()) for x in tiny.train.x] == [20, 21, 22, 120, 121, 122]
    assert int(tiny.test.x[1].float().mean().round()) == 22


def test_damaged_tiny_imagenet(tmp_path: Path):
    root = pictures.tiny_imagenet(tmp_path)
    (root / "val" / "images" / "val_0.JPEG").unlink()
    with pytest.raises(UsageError, match=r"val_0\.JPEG"):
        load("tiny-imagenet", root)
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn0\n")
    with pytest.raises(UsageError, match="no class in the line"):
        load("tiny-imagenet", root)
