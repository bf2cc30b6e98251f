"""Claims of papers that one method is better than another, judged by an experiment."""

from dataclasses import dataclass
from statistics import fmean, variance
from typing import Literal, get_args

Verdict = Literal["holds", "within the spread", "does not hold"]


@dataclass(frozen=True)
class Claim:
    """A claim that `better` reaches a higher accuracy than `worse`; `at` the sparsities that the source speaks of."""

    better: str
    worse: str
    source: str
    at: tuple[float, ...] = (0.9, 0.98)


def spread(runs: list[dict], samples: int) -> float:
    """The variance of an accuracy over the seeds, at least that of a count among so many test samples."""
    values = [run["test_accuracy"] for run in runs]
    mean = fmean(values)
    return max(variance(values) if len(values) > 1 else 0.0, mean * (1 - mean) / samples)


def judge(claim: Claim, at: float, runs: list[dict], samples: int) -> dict | None:
    """Judges the claim at a sparsity: both mean accuracies, the deviation of their difference, and the verdict,
    by whether the difference is larger than that; None if one of the methods has no run there."""
    sides = [[run for run in runs if run["what"] == what and run["at"] == at] for what in (claim.better, claim.worse)]
    if not all(sides):
        return None
    better, worse = (fmean(run["test_accuracy"] for run in side) for side in sides)
    deviation = sum(spread(side, samples) for side in sides) ** 0.5
    verdict: Verdict = "within the spread"
    if abs(better - worse) > deviation:
        verdict = "holds" if better > worse else "does not hold"
    return {
        "better": claim.better,
        "worse": claim.worse,
        "source": claim.source,
        "at": at,
        "accuracies": [better, worse],
        "deviation": deviation,
        "verdict": verdict,
    }


def judge_all(claims: tuple[Claim, ...], runs: list[dict], samples: int) -> list[dict]:
    """Every claim at every sparsity that it speaks of and that has runs."""
    judged = [judge(claim, at, runs, samples) for claim in claims for at in claim.at]
    return [found for found in judged if found is not None]


def render(judged: list[dict]) -> list[str]:
    """Markdown lines: how many hold, then a row a claim, a column a sparsity."""
    ats = sorted({found["at"] for found in judged})
    pairs = list(dict.fromkeys((found["better"], found["worse"], found["source"]) for found in judged))
    lines = []
    for at in ats:
        found = [found["verdict"] for found in judged if found["at"] == at]
        lines.append(f"At {100 * at:g} %: " + ", ".join(f"{v} {found.count(v)}" for v in get_args(Verdict)) + ".")
    lines = ["  \n".join(lines)]
    lines += ["", "| better | worse | " + " | ".join(f"{100 * at:g} %" for at in ats) + " | source |"]
    lines += ["|---|---|" + "---|" * (len(ats) + 1)]
    for pair in pairs:
        own = {
            found["at"]: _cell(found) for found in judged if (found["better"], found["worse"], found["source"]) == pair
        }
        lines.append(" | ".join([f"| {pair[0]} | {pair[1]}", *(own.get(at, "") for at in ats), pair[2]]) + " |")
    return lines


def _cell(found: dict) -> str:
    better, worse = (f"{100 * accuracy:.2f}" for accuracy in found["accuracies"])
    return f"{found['verdict']}: {better}, {worse}"
