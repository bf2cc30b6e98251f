"""The learning rate over the steps of a run."""

import math


def learning_rate(config: dict, step: float, steps_per_epoch: int) -> float:
    """Returns the learning rate of step `step`, counted from 0: a linear warm-up, then the schedule.

    A cosine spans `horizon`, the epochs the run was begun with, so that prolonging it changes nothing before. It falls
    at every step or, by `schedule_unit`, at the first step of every epoch.

    Args:
        config: from `configure`.
        steps_per_epoch: batches of an epoch.
    """
    rate, warmup = config["lr"], config["warmup"] * steps_per_epoch
    if step < warmup:
        return rate * (step + 1) / warmup
    if config["schedule"] == "step":
        return rate * config["gamma"] ** sum(step >= epoch * steps_per_epoch for epoch in config["milestones"])
    if config["schedule"] == "cosine":
        total, final = config["horizon"] * steps_per_epoch, config.get("final_lr") or 0.0
        if config.get("schedule_unit") == "epoch":
            step = step // steps_per_epoch * steps_per_epoch
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return final + (rate - final) * 0.5 * (1 + math.cos(math.pi * done))
    return rate
