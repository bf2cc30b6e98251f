"""Wrong command lines: exit status 2 and one line that says what was expected and what came."""

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.runs import SMALL

from sparsekern import data, models, process, settings
from sparsekern.cli import commands, compare, main
from sparsekern.errors import RunError

ROOT = Path(__file__).parents[2]
TINY = [*SMALL, "--width", "0.05", "--epochs", "1", "--out", "out"]
LONG = "x" * 300


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    (tmp_path / "table.csv").write_text("x,y\n1,a\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "wrong.yaml").write_text("epoch: 3")
    (tmp_path / "type.yaml").write_text("epochs: many")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["train", *TINY, "--seed", str(2**64)], "a whole number from 0 to 2^64 - 1, got '18446744073709551616'"),
        (["train", *TINY, "--lr", "1e300"], "a number, 0 or more and below 1e33, got '1e300'"),
        (["train", *TINY, "--weight-decay", "1e300"], "below 1e33"),
        (["train", *TINY, "--schedule", "step", "--milestones", "1,2", "--gamma", "1e30"], "grows beyond 1e+33"),
        (["train", *TINY, "--width", "3e4"], "lenet300 of --width 30000 has"),
        (["train", *TINY, "--width", "1e25"], "is larger than any memory"),
        (["train", *TINY, "--model", "smallcnn", "--width", "1e30"], "is larger than any memory"),
        (["train", *TINY, "--threads", "99999999999"], "a whole number from 1 to 1024, got '99999999999'"),
        (["train", *TINY, "--epochs", "9" * 30], "a whole number, 1 or more"),
        (["train", *TINY[:-1], LONG], "File name too long"),
        (["train", "--resume", LONG], "File name too long"),
        (["train", *TINY[:-1], "file"], "cannot write to file: expected a folder, but it is a file"),
        (["train", *TINY[:-1], "model"], "model holds config.json, which is of no run; choose another --out"),
        (["train", *TINY, "--sparsity", "90"], "expected a fraction in [0, 1), 0.9 for 90 %, got '90'"),
        (["train", "--resume", "nowhere"], "there is no folder nowhere"),
        (["train", "--resume", "folder"], "folder holds no run: there is no checkpoint.pt in it"),
        (["train", *TINY, "--method", "dense", "--exclude", "*"], "no linear layer or convolution"),
        (["train", *TINY, "--method", "gmp", "--set", "every=0"], "every >= 1, got 0"),
        (["train", *TINY, "--data", "csv", "--data-dir", "folder", "--target", "y"], "cannot read folder"),
        (["compare", "--methods", "set", "--seeds", "-1", "--out", "out"], "a whole number from 0"),
        (["compare", "--methods", "set", "--out", LONG], "File name too long"),
        (["compare", "--methods", "set", "--out", "file"], "cannot write to file"),
        (["plot", LONG], "File name too long"),
        (["plot", "folder"], "neither a run"),
        (["info", "--width", "1e30"], "is larger than any memory"),
        (["bench", "kernels", "--threads", "99999999999"], "a whole number from 1 to 1024"),
        (["calibrate", "--threads", "0"], "a whole number from 1 to 1024, got '0'"),
        (["calibrate", "quickly"], "unrecognized arguments: quickly"),
        (["demo", "--seed", str(2**64)], "a whole number from 0 to 2^64 - 1"),
        (["demo", "--out", LONG], "File name too long"),
        (["train", "--metod", "rigl"], "unrecognized arguments: --metod rigl; did you mean --method?"),
        (["info", "--modle=mlp"], "did you mean --model?"),
        (["trian"], "unknown 'trian'; did you mean train?"),
        (["export", "nowhere", "--format", "csr"], "there is no folder nowhere"),
        (["export", "folder", "--format", "dense"], "folder holds no run: there is no checkpoint.pt in it"),
        (["export", "folder", "--format", "onxx"], "unknown 'onxx'; did you mean onnx?"),
        (["export", "folder", "--format", "csr", "--out", "file"], "file exists already: choose another file"),
        (["export", "folder", "--format", "csr", "--out", "a/b"], "cannot write a/b: there is no folder a"),
        (["bench", "kernel"], "unknown 'kernel'; did you mean kernels?"),
        (["train", "--config", "nothing.yaml"], "cannot read nothing.yaml: No such file or directory"),
        (
            ["train", *TINY, "--overrides", "fc1=1.5"],
            "expected a sparsity in [0, 1), none or a method for fc1, got 1.5",
        ),
        (
            ["train", *TINY, "--method", "rigl", "--set", "every=2.5"],
            "--set every expects a whole number or none, got 2.5",
        ),
        (["train", "--config", "folder"], "cannot read folder"),
        (["train", "--config", "file"], "file: expected settings, for example `method: rigl`, got 'text'"),
        (["train", "--config", "wrong.yaml"], "unknown setting in wrong.yaml 'epoch'; did you mean epochs"),
        (["train", "--config", "type.yaml"], "type.yaml: epochs: expected a whole number, 1 or more, got 'many'"),
        (["train", "--config", "type.yaml", "--recipe", "list"], "not allowed with argument --config"),
        (["train", "--config", "type.yaml", "--resume", "folder"], "--config begins a run"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_one_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture):
    assert main(argv) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


VALUES = ["", LONG, "\udcff", " 1 ", "0", "-1", "1", "0.5", "1.5", "1e300", "1e999", "nan", "inf", "-inf", "1e-320"]
VALUES += ["99999999999", "9" * 30, "abc", "'", "☃", "true", "none", "[]", "{}", "(", "-", "1,2", "1,,2", ",", "0x10"]
VALUES += [
    "/nowhere",
    "file",
    "folder",
    "table.csv",
    "../..",
    "sgd",
    "rigl",
    "dense",
    "snr",
    "mlp",
    "resnet20",
    "digits",
]
VALUES += ["torchvision:", "csv", "imagefolder", "cpu:3", "cuda:9", "meta", "bf16", "step", "global", "a=b", "every=0"]
VALUES += ["every=-1", "rate=1e300", "rate=-1", "batches=0", "fraction=2.0"]
FLAGS = {
    "train": "method sparsity distribution exclude set backend data data-dir target model width epochs batch-size "
    "optimizer lr momentum weight-decay schedule milestones gamma final-lr warmup label-smoothing amp seed device "
    "threads out resume recipe config",
    "compare": "methods sparsities seeds backends jobs note out set data model recipe threads width lr",
    "info": "method sparsity set backend data data-dir target model width epochs batch-size seed device threads",
    "demo": "epochs sparsity width seed threads out",
    "bench": "device json threads case impl model run",
    "calibrate": "threads",
    "plot": "",
    "export": "format out overwrite",
    "methods": "json",
}


def random_line(rng: random.Random) -> list[str]:
    command = rng.choice(["train", "train", "compare", *FLAGS])
    names = FLAGS[command].split()
    line = [command]
    if command == "train":
        line += TINY
    elif command == "compare":
        line += ["--methods", "set", "--out", "folder"]
    elif command == "bench":
        line += [rng.choice(["kernels", "nothing"]), "--case", "no such case"]
    elif command in ("plot", "export", "methods", "calibrate"):
        line.append(rng.choice(VALUES))
    for name in rng.sample(names, min(len(names), rng.randint(1, 3))):
        line += [f"--{name}", rng.choice(VALUES)][: rng.choice([1, 2, 2, 2, 2, 2, 2, 2])]
    return line


@pytest.mark.parametrize("seed", range(4))
def test_random_lines_end_without_a_traceback(
    seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def no_run(*_: object) -> int:
        raise RunError("it would begin")

    monkeypatch.setattr("sparsekern.cli.train.train", no_run)
    monkeypatch.setattr("sparsekern.cli.demo.Contender.advance", no_run)
    monkeypatch.setattr(compare, "run_all", no_run)
    monkeypatch.setattr("sparsekern.cli.calibrate.calibrate", no_run)
    rng, refused = random.Random(seed), 0
    for _ in range(75):
        line = random_line(rng)
        status = main(line)
        error = [text for text in capsys.readouterr().err.splitlines() if not text.startswith("warning: ")]
        assert status in (0, 1, 2), line
        if status == 2:
            refused += 1
            assert error[0].startswith("usage: ") or len(error) == 1, (line, error)
    assert refused > 40


@pytest.mark.parametrize("line", ["--help", "--version", "train --help", "compare --help", "bench --help", "train --x"])
def test_nobody_waits_for_pytorch_to_be_told_the_flags(line: str, tmp_path: Path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "sparsekern", *line.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 * line.endswith("--x")
    assert "sparsekern" in done.stdout + done.stderr
    assert "torch is imported" not in done.stderr


def test_flags_name_what_there_is():
    assert tuple(data.DATA) == settings.DATA
    assert tuple(models.MODELS) == settings.MODELS
    assert {command.__name__[1:] for command in commands.COMMANDS} == set(FLAGS)
    for name in FLAGS:
        assert callable(importlib.import_module(f"sparsekern.cli.{name}").run)


def test_names_that_the_terminal_cannot_write(tmp_path: Path):
    out = os.fsencode(tmp_path) + b"/\xff"
    command = [sys.executable, "-m", "sparsekern", "train", *TINY[:-1], out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert b"\\udcff" in done.stdout


def test_a_full_disk_under_the_output():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "sparsekern", "methods"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "sparsekern: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("start", ["module", "script"])
def test_ctrl_c_while_importing(start: str, tmp_path: Path):
    """The signal comes when PyTorch begins to be imported."""
    (tmp_path / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT); import nothing")
    (tmp_path / "sparsekern").write_text("import sys\nfrom sparsekern.cli import main\nsys.exit(main())\n")
    command = [sys.executable, *(["-m", "sparsekern"] if start == "module" else [str(tmp_path / "sparsekern")]), "info"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, cwd=tmp_path / "folder", capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_is_the_callers_in_other_programs(tmp_path: Path):
    code = "import signal, sparsekern.cli; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_children_import_nothing_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("random", "json", "torch", "sparsekern"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current directory')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    done = subprocess.run(process.command("sparsekern", "methods", "rigl"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--set every=" in done.stdout


@pytest.mark.parametrize("seed", [9_300_000_000_000, 2**63, 2**64 - 1])
def test_large_seeds(seed: int):
    assert main(["train", *TINY, "--method", "gse_grabo", "--set", "every=2", "--seed", str(seed)]) == 0


def test_stopped_by_the_terminal_in_the_first_seconds(tmp_path: Path):
    command = [sys.executable, "-m", "sparsekern", "train", "--epochs", "5000", "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        time.sleep(random.Random(0).uniform(0.5, 2))
        running.send_signal(signal.SIGINT)
        _, error = running.communicate()
    assert running.returncode == 130
    assert "Traceback" not in error


def test_ctrl_c_that_a_library_swallows_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As an exception in a callback from C, or in a bare except, while a library is imported."""
    asked = []

    def load(*arguments: object) -> object:
        with contextlib.suppress(KeyboardInterrupt):
            process._interrupt()
        asked.append(arguments)
        return original(*arguments)

    module = importlib.import_module("sparsekern.cli.train")
    original = module.prepared
    monkeypatch.setattr(module, "prepared", load)
    assert main(["train", *TINY, "--method", "random", "--out", str(tmp_path / "run")]) == 130
    assert asked
    monkeypatch.undo()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


def test_a_process_that_ignores_ctrl_c_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the background jobs of a script, which a shell lets ignore it."""
    module = importlib.import_module("sparsekern.cli.train")
    original = module.train_epochs

    def train(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        original(*arguments)

    monkeypatch.setattr(module, "train_epochs", train)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main(["train", *TINY, "--method", "random", "--out", str(tmp_path / "run")]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
