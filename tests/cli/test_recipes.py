"""The papers' settings by name, and how they mix with flags."""

import json
from pathlib import Path

import pytest
from support.runs import SMALL

from sparsekern import methods, models, training
from sparsekern.cli import compare, main, recipes
from sparsekern.data import DATA
from sparsekern.errors import UsageError


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_resolves(name: str):
    recipe = recipes.read(name)
    assert set(recipe) == {"source", "flags", "baselines", "notes"}
    flags = recipe["flags"]
    assert {"method", "data", "model", "epochs", "batch_size", "lr", "weight_decay", "schedule"} <= flags.keys()
    assert flags.keys() <= training.DEFAULTS.keys()
    config = training.configure(**recipes.apply({"recipe": name}))
    assert flags == {key: config[key] for key in flags}
    assert all(epoch < config["epochs"] for epoch in config["milestones"])
    assert config["data"] in DATA
    models.check(config["model"])
    steps = {"total_steps": 391 * config["epochs"], "steps_per_epoch": 391}
    method = methods.get(config["method"])(sparsity=config["sparsity"], **steps, **config["set"])
    assert method.name == config["method"]
    for baseline, settings in recipe["baselines"].items():
        own = training.configure(**recipes.apply({"recipe": name, "method": baseline}))
        assert (own["method"], own["set"]) == (baseline, settings)
        assert methods.get(baseline)(sparsity=config["sparsity"], **steps, **settings).name == baseline
    json.dumps(config)


def test_flags_stand_above_the_recipe():
    given = {"recipe": "dpf-resnet20", "lr": 0.1, "data": "imagefolder", "seed": 3}
    flags = recipes.apply(given)
    assert (flags["lr"], flags["data"], flags["seed"]) == (0.1, "imagefolder", 3)
    assert (flags["method"], flags["sparsity"], flags["milestones"]) == ("dpf", 0.9, [150, 225])
    assert given["recipe"] == "dpf-resnet20"
    assert recipes.apply({"lr": 0.1}) == {"lr": 0.1}


@pytest.mark.parametrize(("epochs", "milestones"), [(300, [150, 225]), (8, [4, 6]), (600, [300, 450]), (1, [1, 1])])
def test_milestones_scale_with_the_epochs(epochs: int, milestones: list[int]):
    assert recipes.apply({"recipe": "dpf-resnet20", "epochs": epochs})["milestones"] == milestones
    own = recipes.apply({"recipe": "dpf-resnet20", "epochs": epochs, "milestones": [2]})
    assert own["milestones"] == [2]


def test_what_belongs_to_a_flag_leaves_with_it():
    cosine = recipes.apply({"recipe": "dpf-resnet20", "schedule": "cosine"})
    assert not {"milestones", "gamma"} & cosine.keys()
    adam = recipes.apply({"recipe": "dpf-resnet20", "optimizer": "adam"})
    assert not {"lr", "momentum", "nesterov"} & adam.keys()
    assert recipes.apply({"recipe": "snr-mnist", "optimizer": "adam"})["lr"] == 0.01
    assert "sparsity" not in recipes.apply({"recipe": "dpf-resnet20", "method": "dense"})


def test_options_of_the_method_add_up_and_leave_with_it():
    name, own = "dpf-wrn28-2", ("stop", 0.6)
    assert recipes.apply({"recipe": name})["set"] == [own]
    assert recipes.apply({"recipe": name, "set": [("every", 4)]})["set"] == [own, ("every", 4)]
    assert recipes.apply({"recipe": name, "set": [("stop", 0.5)]})["set"] == [("stop", 0.5)]
    assert "set" not in recipes.apply({"recipe": name, "method": "rigl"})


def test_compare_takes_a_recipe_for_its_grid(tmp_path: Path):
    grid = {"methods": ["dense", "rigl", "dpf"], "sparsities": [0.8], "seeds": [0], "backends": ["auto"]}
    flags = recipes.apply({"recipe": "dpf-wrn28-2", "epochs": 20}, grid["methods"])
    cells = compare._cells(grid, flags, flags.pop("set"), tmp_path)
    assert [cell.config["set"] for cell in cells] == [{}, {}, {"stop": 0.6}]
    assert [cell.config["sparsity"] for cell in cells] == [0.0, 0.8, 0.8]
    assert all(cell.config["milestones"] == [6, 12, 16] for cell in cells)
    assert recipes.apply({"recipe": "dpf-resnet20"}, ["gmp", "dpf"])["set"] == [("gmp.scope", "convolutions")]
    assert "set" not in recipes.apply({"recipe": "dpf-wrn28-2"}, ["rigl"])


def test_list_and_unknown_names(capsys: pytest.CaptureFixture):
    assert main(["train", "--recipe", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in recipes.names())
    assert "--milestones 150,225" in out
    with pytest.raises(UsageError, match="did you mean dpf-resnet20"):
        recipes.read("dpf-resnet2")


def test_a_run_keeps_plain_values_and_resumes_without_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = ["--recipe", "grabo-resnet56", *SMALL, "--data", "digits", "--epochs", "2", "--set", "every=5"]
    assert main(["train", *flags, "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.keys() == training.DEFAULTS.keys() | {"horizon"}
    assert (config["weight_decay"], config["milestones"], config["set"]) == (1e-4, [1, 1], {"every": 5})
    assert main(["train", "--resume", str(tmp_path), "--epochs", "3"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path), "--recipe", "grabo-resnet56"]) == 2
    assert "has its settings" in capsys.readouterr().err


def test_options_with_a_list_of_values_are_checked():
    assert training.configure(method="snr", set=[("criterion", "magnitude")])["set"] == {"criterion": "magnitude"}
    with pytest.raises(UsageError, match="did you mean magnitude"):
        training.configure(method="snr", set=[("criterion", "magnitud")])


def test_a_sparsity_that_emerges_is_not_asked_for(tmp_path: Path):
    assert training.configure(method="snr")["sparsity"] is None
    with pytest.warns(UserWarning, match="--sparsity is not used"):
        assert training.configure(method="snr", sparsity=0.8)["sparsity"] is None
    assert training.configure(method="rigl")["sparsity"] == training.DEFAULTS["sparsity"]
    grid = {"methods": ["snr", "rigl"], "sparsities": [0.8, 0.9], "seeds": [0], "backends": ["auto"]}
    names = [cell.folder.name for cell in compare._cells(grid, {}, [], tmp_path)]
    assert names == ["snr-auto-seed0", "rigl-0.8-auto-seed0", "rigl-0.9-auto-seed0"]


def test_a_config_file_is_a_recipe_of_ones_own(tmp_path: Path) -> None:
    """Flags that are given besides win, and take what belongs to them along."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "method: rigl\nsparsity: .95\nweight-decay: 1e-3\nset: {every: 50}\nepochs: 10\nmomentum: 0.8\nnesterov: true\n"
        "schedule: step\nmilestones: [5, 8]\n"
    )
    given = recipes.apply({"config": path, "epochs": 20, "set": [("rate", 0.2)], "seed": 3})
    config = training.configure(**given)
    assert (config["method"], config["sparsity"], config["weight_decay"]) == ("rigl", 0.95, 1e-3)
    assert (config["epochs"], config["milestones"], config["seed"]) == (20, [10, 16], 3)
    assert config["set"] == {"every": 50, "rate": 0.2}
    assert config["nesterov"]
    adam = training.configure(**recipes.apply({"config": path, "optimizer": "adam"}))
    assert (adam["lr"], adam["momentum"], adam["nesterov"]) == (1e-3, 0.9, False)


def test_a_config_file_names_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text("method: random\nepochs: 1\nthreads: 1\nmodel: lenet300\nout: made\noverwrite: false\n")
    assert main(["train", "--config", str(path)]) == 0
    assert (tmp_path / "made" / "summary.json").exists()
    assert main(["train", "--config", str(path)]) == 2  # it is there
    assert main(["train", "--config", str(path), "--out", "other"]) == 0
    assert (tmp_path / "other" / "summary.json").exists()
    path.write_text("method: random\nout: [1]\n")
    assert main(["train", "--config", str(path)]) == 2


@pytest.mark.parametrize("own", ["dense", "snr", "str"])
def test_another_method_does_not_inherit_a_sparsity_that_is_none(own: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(training.configure(method=own)))
    flags = recipes.apply({"config": path, "method": "rigl"})
    assert training.configure(**flags)["sparsity"] == training.DEFAULTS["sparsity"]
    assert training.configure(**recipes.apply({"config": path}))["method"] == own


def test_a_method_needs_its_sparsity() -> None:
    with pytest.raises(UsageError, match=r"rigl needs a --sparsity in \[0, 1\), got none"):
        training.configure(method="rigl", sparsity=None)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got None"):
        methods.rigl(sparsity=None, total_steps=10)  # type: ignore[arg-type]


def test_the_file_that_a_run_writes_makes_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--method", "set", "--set", "every=3", "--model", "lenet300", "--width", ".05", "--epochs", "1"]
    assert main(["train", *flags, "--schedule", "cosine", "--seed", "4", "--out", "one"]) == 0
    assert main(["train", "--config", "one/config.json", "--out", "two"]) == 0
    assert main(["info", "--config", "one/config.json"]) == 0
    one, two = (json.loads(Path(run, "summary.json").read_text()) for run in ("one", "two"))
    assert one["test_accuracy"] == two["test_accuracy"]
    assert Path("one/config.json").read_text() == Path("two/config.json").read_text()
