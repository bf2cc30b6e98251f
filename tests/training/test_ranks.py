"""Data-parallel runs of the command line: one network, one folder, whatever the number of ranks."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ranks
from support.runs import SMALL, interrupt_at, load
from torch.distributed.run import get_args_parser

from sparsekern import data
from sparsekern.cli import main
from sparsekern.training import DEFAULTS, run_folder
from sparsekern.training.config import as_flag

FLAGS = [*SMALL, "--sparsity", "0.8", "--batch-size", "250"]
METHOD = ["--method", "set", "--set", "every=3"]


def train(world: int, path: Path, *flags: str) -> list[int]:
    """Runs `sparsekern train` on so many ranks; returns their exit statuses."""
    return ranks.ended(ranks.start(world, lambda rank: main(["train", *flags]), path))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert main(["train", *FLAGS, *METHOD, "--epochs", "3", "--out", str(out)]) == 0
    return out


def close(first: Path, second: Path) -> None:
    """Compares runs, but for times and the rounding of sums."""
    for one, other in zip(load(first)["history"], load(second)["history"], strict=True):
        assert one["test_accuracy"] == pytest.approx(other["test_accuracy"], abs=0.006)
        for key in ("epoch", "step", "lr", "nnz", "train_loss", "test_loss"):
            assert one[key] == pytest.approx(other[key], rel=1e-3), key
    ours, theirs = (load(folder)["model"] for folder in (first, second))
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-3, atol=1e-5, msg=key)


def test_ranks_train_one_run(alone: Path, tmp_path: Path) -> None:
    """Three ranks: their parts of a batch differ in size."""
    out = tmp_path / "run"
    assert train(3, tmp_path, *FLAGS, *METHOD, "--epochs", "3", "--out", str(out)) == [0, 0, 0]
    close(out, alone)
    assert sorted(path.name for path in out.iterdir()) == sorted(run_folder.FILES)
    assert json.loads((out / "summary.json").read_text())["world_size"] == 3
    told = (tmp_path / "0.out").read_text()
    assert "on each of 3 ranks" in told
    assert told.count("\nepoch ") == 3
    assert [(tmp_path / name).read_text() for name in ("0.err", "1.out", "1.err")] == [""] * 3


def test_a_run_goes_on_with_other_numbers_of_ranks(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = [*FLAGS, *METHOD, "--epochs", "3", "--out", str(out)]

    def interrupted(rank: int) -> int:
        interrupt_at(pytest.MonkeyPatch(), 9)
        return main(["train", *first])

    assert ranks.ended(ranks.start(3, interrupted, tmp_path)) == [130] * 3
    assert "continue with: torchrun" in (tmp_path / "0.err").read_text()
    assert train(2, tmp_path, "--resume", str(out)) == [0, 0]
    close(out, alone)
    assert train(2, tmp_path, "--resume", str(out)) == [0, 0]
    assert "is finished" in (tmp_path / "0.out").read_text()
    assert main(["train", "--resume", str(out), "--epochs", "4"]) == 0
    assert json.loads((out / "summary.json").read_text())["world_size"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "1437"], "leaves 1 of 1438 training samples in a batch, fewer than the 2 ranks"),
        (["--method", "riggl"], "unknown method 'riggl'"),
        (["--epochs", "none"], "argument --epochs: expected"),
    ],
)
def test_a_mistake_is_told_once(flags: list[str], message: str, tmp_path: Path) -> None:
    assert train(2, tmp_path, *FLAGS, *flags, "--out", str(tmp_path / "run")) == [2, 2]
    assert (tmp_path / "0.err").read_text().count(message) == 1
    assert (tmp_path / "1.err").read_text() == ""
    assert not (tmp_path / "run").exists()


def test_what_fails_on_one_rank_ends_all(tmp_path: Path) -> None:
    def work(rank: int) -> int:
        where = tmp_path / ("data" if rank == 0 else "nowhere")
        return main(["train", *flags, "--data-dir", str(where), "--out", str(tmp_path / "run")])

    flags = ["--data", "csv", "--target", "y", *FLAGS]

    rows = "\n".join(f"{i % 7},{i % 2}" for i in range(800))
    (tmp_path / "data").write_text(f"x,y\n{rows}\n")
    assert ranks.ended(ranks.start(2, work, tmp_path)) == [2, 2]
    assert (tmp_path / "0.err").read_text().startswith("sparsekern: rank 1: ")


def test_other_commands_are_refused(tmp_path: Path) -> None:
    codes = ranks.ended(ranks.start(2, lambda rank: main(["methods"]), tmp_path))
    assert codes == [2, 2]
    assert "torchrun is for train alone" in (tmp_path / "0.err").read_text()
    assert (tmp_path / "1.err").read_text() == ""


def test_a_rank_that_dies_ends_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += ["-m", "sparsekern", "train", *FLAGS, *METHOD, "--epochs", "5000", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("epoch"):
            assert process.poll() is None
        os.kill(_rank(process.pid, 1), signal.SIGKILL)
        _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"continue with: torchrun [...] -m sparsekern train --resume {out}" in error
    done = load(out)["epoch"]
    assert done >= 1
    assert main(["train", "--resume", str(out), "--epochs", str(done + 1)]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(run_folder.FILES)


def _rank(parent: int, rank: int) -> int:
    """Returns the process of a rank that torchrun, `parent`, has started."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"torchrun has started no rank {rank}")


@pytest.mark.parametrize("augmented", [False, True])
def test_parts_of_batches_make_up_the_batches(augmented: bool) -> None:
    images = torch.randint(256, (53, 3, 8, 8), dtype=torch.uint8)
    split = data.in_memory.photographs(images, torch.arange(53), images, torch.arange(53), 53)
    split = split.train if augmented else split.test

    def batches(part: slice) -> list:
        return list(split.batches(torch.randperm(53), 16, torch.Generator().manual_seed(1), part))

    torch.manual_seed(0)
    whole = batches(data.WHOLE)
    for rank in range(3):
        torch.manual_seed(0)
        for (x, y), (part_x, part_y) in zip(whole, batches(slice(rank, None, 3)), strict=True):
            assert torch.equal(x[rank::3], part_x)
            assert torch.equal(y[rank::3], part_y)


def test_torchrun_leaves_our_flags_alone() -> None:
    """It completes the names of its own options, in our part of the command line, too."""
    flags = {as_flag(name) for name in DEFAULTS if name != "log"} | {"--logger", "--out", "--resume", "--overwrite"}
    for flag in flags:
        given = ["-m", "sparsekern", "train", flag]
        assert get_args_parser().parse_args(given).training_script_args == ["train", flag]
