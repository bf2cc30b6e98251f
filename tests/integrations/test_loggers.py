"""`--log`: what TensorBoard and W&B read back is what the run's folder has. `make test-integrations` has them."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import NamedTuple

import pytest
from support.runs import SMALL

from sparsekern.cli import main
from sparsekern.training import loggers

pytest.importorskip("tensorboard")
pytest.importorskip("wandb")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

RUN = ["train", *SMALL, "--method", "rigl"]


def begun(folder: Path, logger: str, epochs: int, *flags: str) -> None:
    assert main([*RUN, "--log", logger, "--epochs", str(epochs), "--out", str(folder), *flags]) == 0


def resumed(folder: Path, epochs: int, *flags: str) -> None:
    assert main(["train", "--resume", str(folder), "--epochs", str(epochs), *flags]) == 0


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- TensorBoard


def drawn(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("at_first", [True, False])
def test_tensorboard_has_every_epoch_once(at_first: bool, tmp_path: Path) -> None:
    if at_first:
        begun(tmp_path, "tensorboard", 2)
        resumed(tmp_path, 3)
    else:
        assert main([*RUN, "--epochs", "2", "--out", str(tmp_path)]) == 0
        resumed(tmp_path, 3, "--log", "tensorboard")
    epochs, found = metrics(tmp_path), drawn(tmp_path)
    for key in ("train_loss", "test_accuracy", "sparsity", "lr"):
        assert found[key] == [(e["step"], pytest.approx(e[key], rel=1e-6)) for e in epochs]
    layers = [layer["name"] for layer in epochs[0]["layers"]]
    for layer in layers:
        assert [step for step, _ in found[f"flips/{layer}"]] == [e["step"] for e in epochs]


def test_another_run_in_the_folder_begins_anew(tmp_path: Path) -> None:
    begun(tmp_path, "tensorboard", 2)
    begun(tmp_path, "tensorboard", 1, "--overwrite")
    assert len(drawn(tmp_path)["train_loss"]) == 1


# ---- Weights & Biases, which keeps its records here


class Part(NamedTuple):
    """What one process told W&B."""

    id: str
    project: str
    name: str
    config: dict
    epochs: list[tuple[int, dict[str, float]]]
    exit_code: int


def records(path: Path) -> Iterator[Record]:
    """Reads a `.wandb` file: a head of seven bytes, then records in the format of LevelDB's log, cut at blocks of
    32 KiB. Each piece has a checksum, its length, and whether it ends a record (1 and 4)."""
    data, at, record = path.read_bytes(), 7, b""
    while at < len(data):
        left = -at % 2**15
        if 0 < left < 7:  # no room for a piece
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def part(path: Path) -> Part:
    found = list(records(path))
    (run,) = (record.run for record in found if record.HasField("run"))
    (end,) = (record.exit.exit_code for record in found if record.HasField("exit"))
    rows = [record.history for record in found if record.HasField("history")]
    epochs = [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in row.item} for row in rows]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    shown = [{key: value for key, value in epoch.items() if not key.startswith("_")} for epoch in epochs]
    return Part(
        run.run_id,
        run.project,
        run.display_name,
        config,
        [(r.step.num, e) for r, e in zip(rows, shown, strict=True)],
        end,
    )


def parts(folder: Path) -> list[Part]:
    """In their order: their names tell the second they began in, and then chance."""
    found = folder.glob("wandb/offline-run-*/*.wandb")
    return [part(path) for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODE": "offline", "SILENT": "true", "PROJECT": "sparse"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)


@pytest.mark.usefixtures("_offline")
def test_each_part_of_a_run_has_its_epochs(tmp_path: Path) -> None:
    begun(tmp_path, "wandb", 2)
    sleep(1)  # parts of one run that begin in the same second have the same name
    resumed(tmp_path, 3)
    first, second = parts(tmp_path)
    wanted = [(epoch["step"], loggers.numbers(epoch)) for epoch in metrics(tmp_path)]
    assert (first.epochs, second.epochs) == (wanted[:2], wanted)
    assert first.id == second.id
    assert (first.project, first.name, first.exit_code) == ("sparse", tmp_path.name, 0)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert {key: second.config[key] for key in settings} == settings


@pytest.mark.usefixtures("_offline")
def test_a_run_that_was_stopped_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sparsekern.training.run.Run.evaluate", stop)
        assert main([*RUN, "--log", "wandb", "--epochs", "1", "--out", str(tmp_path)]) == 130
    begun(tmp_path, "wandb", 1, "--overwrite")
    first, second = parts(tmp_path)
    assert (first.exit_code, first.epochs) == (255, [])
    assert (second.exit_code, len(second.epochs)) == (0, 1)
    assert first.id != second.id
