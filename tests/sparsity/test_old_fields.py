"""Methods and rules as they were written for version 0.1."""

import pytest

import sparsekern as sk
from sparsekern.sparsity import Rule, growth, schedules, scopes, views
from sparsekern.sparsity.parts import distributions


def test_fields_of_version_0_1_find_their_places() -> None:
    with pytest.warns(DeprecationWarning, match=r"Method\(scope, share, initialize, min_per_layer, rate, update\)"):
        old = sk.Method(
            "mine",
            schedules.constant(0.9),
            schedules.Cadence(10),
            scope=scopes.without_classifier,
            grow=growth.dense_gradient(),
            rate=schedules.cosine(0.3, 100),
            view=views.layer,
            share=distributions.erk,
            update="replace",
            initialize="fan_in",
            min_per_layer=2,
        )
    assert (old.start.scope, old.start.share, old.start.initialize) == (
        scopes.without_classifier,
        distributions.erk,
        "fan_in",
    )
    assert (old.view.per_layer, old.view.min_per_layer, old.view.share) == (True, 2, distributions.erk)
    assert old.grow is not None
    assert old.grow.rate(0) == pytest.approx(0.3)
    assert old.order == "replace"


def test_freeze_and_epochs() -> None:
    with pytest.warns(DeprecationWarning, match="of version 0.1"):
        old = sk.Method(
            "mine", schedules.constant(0.9), storage="master", freeze=30, update="before", steps_per_epoch=7
        )
    assert old.storage == "master"
    assert old.storage.until == 30
    assert old.rule.epoch == 7
    assert Rule.epoch is None


def test_an_order_that_the_method_has_not_is_refused() -> None:
    error = pytest.raises(ValueError, match="the order of this method is 'step'")
    with pytest.warns(DeprecationWarning, match="of version 0.1"), error:
        sk.Method("mine", schedules.constant(0.9), update="before")


@pytest.mark.parametrize("name", ["held", "wants_moment", "needs_loss", "equip"])
def test_hooks_that_nobody_would_call_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"Mine.{name} is a hook of version 0.1"):
        type("Mine", (Rule,), {name: lambda self: None})


def test_masks_of_version_0_1_are_refused() -> None:
    with pytest.raises(TypeError, match="takes \\(sites, step, losses\\) now"):

        class Mine(Rule):
            def masks(self, sites, step, held):  # type: ignore[override]
                return None


@pytest.mark.parametrize(("old", "new"), [("follow", "after_backward"), ("stepped", "after_step")])
def test_hooks_are_found_by_their_old_names(old: str, new: str) -> None:
    def hook(self, site, step, lr, *more):
        return step

    with pytest.warns(DeprecationWarning, match=f"Mine.{old} is called {new} now"):
        kind = type("Mine", (Rule,), {old: hook})
    assert getattr(kind, new) is hook


def test_hooks_of_a_mixin_are_found_by_their_old_names() -> None:
    class Mixin:
        def follow(self, site, step, lr):
            super().follow(site, step, lr)  # type: ignore[misc]
            return step

    with pytest.warns(DeprecationWarning, match="Mine.follow is called after_backward now"):
        kind = type("Mine", (Mixin, Rule), {})
    assert kind().after_backward(None, 3, 0.1) == 3
    assert type("More", (kind,), {})().after_backward(None, 3, 0.1) == 3  # without another warning


def test_of_both_names_of_a_hook_the_new_one_counts() -> None:
    class Mine(Rule):
        def follow(self, site, step, lr):
            return "old"

        def after_backward(self, site, step, lr):
            return "new"

    assert Mine().after_backward(None, 3, 0.1) == "new"  # type: ignore[arg-type]


def test_window_of_a_convolution() -> None:
    layer = sk.SparseConv2d(2, 3, 3, sparsity=0.5)
    with pytest.warns(DeprecationWarning, match="window is called operation now"):
        assert layer.window is layer.operation
