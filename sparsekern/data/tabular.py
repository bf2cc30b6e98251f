"""A CSV file as tensors: standardised numbers, one-hot categories, statistics of the training rows only."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, choose, first_line, require

MOST = 10_000  # categories of a column, classes
LARGEST = 2**30  # bytes of the inputs, float32


def read_csv(path: Path, target: str) -> tuple[Any, Tensor, tuple[str, ...]]:
    """Returns the feature columns (a data frame), the class of every row, int64, and the classes, sorted.

    Raises:
        UsageError: no such file or column, fewer than five rows, a missing or continuous target, too many classes.
    """
    pandas = require("pandas")
    try:
        frame = pandas.read_csv(path, low_memory=False)  # which would guess the type of a column part by part
    except Exception as error:  # a damaged archive raises what its format is read with
        raise UsageError(f"cannot read {path}: {first_line(error)}") from error
    column = frame[choose("column", target, [str(name) for name in frame.columns])]
    features = frame.drop(columns=target)
    if len(frame) < 5 or features.shape[1] == 0:
        raise UsageError(f"{path} has {len(frame)} rows and {features.shape[1]} feature columns; need 5 and 1")
    if column.isna().any():
        raise UsageError(
            f"column {target!r} of {path} is empty in {int(column.isna().sum())} rows (NA, null and None count as "
            "empty); remove or fill them"
        )
    if column.dtype.kind == "O":
        column = column.map(str)  # where there are integers too long for 64 bits, say, among the texts
    classes, labels = np.unique(column.to_numpy(), return_inverse=True)
    if len(classes) < 2:
        raise UsageError(f"column {target!r} of {path} holds one class only, {classes[0]!r}")
    if len(classes) > MOST:
        raise UsageError(f"column {target!r} of {path} has {len(classes):,} classes; the limit is {MOST:,}")
    if column.dtype.kind == "f" and (classes != np.round(classes)).any():
        raise UsageError(f"column {target!r} of {path} is continuous ({len(classes)} values); a target must be a class")
    return features, torch.from_numpy(labels).long(), tuple(map(str, classes))


def encode(frame: Any, train: np.ndarray) -> Tensor:
    """Encodes feature columns as float32 `[rows, features]`; mean, deviation and categories come from the rows `train`.

    A missing number becomes the mean. A missing or never seen category is all zeros. A column that is constant or
    empty on the training rows becomes zeros.
    """
    columns = []
    width = 0
    for name in frame.columns:
        column = _plain(frame[name])
        if column.dtype.kind in "iuf":
            values = column.to_numpy(dtype=np.float64)
            known = values[train][np.isfinite(values[train])]
            mean, std = (known.mean(), known.std()) if known.size else (0.0, 0.0)
            scaled = (values - mean) / (std if std > 0 else 1.0)
            columns.append(np.where(np.isfinite(scaled) & (std > 0), scaled, 0.0)[:, None])
        else:
            known = column.notna().to_numpy()
            text = np.array([str(value) if ok else None for value, ok in zip(column, known, strict=True)], dtype=object)
            categories = np.array(sorted(set(text[train][known[train]])), dtype=object)
            width += len(categories)
            if len(categories) > MOST or 4 * width * len(frame) > LARGEST:
                raise UsageError(
                    f"column {name!r} has {len(categories):,} categories, each of which would become an input; the "
                    f"limit is {MOST:,}, and 1 GiB for all: remove the column, or write numbers or fewer categories"
                )
            columns.append((text[:, None] == categories).astype(np.float32))
    return torch.from_numpy(np.concatenate(columns, axis=1)).float()


def _plain(column: Any) -> Any:
    """Returns numbers that pandas keeps as texts since one of them is too long for 64 bits, as float64."""
    known = column[column.notna()]
    if column.dtype.kind != "O" or known.map(lambda value: isinstance(value, bool)).any():
        return column
    try:
        return known.map(str).astype(np.float64).reindex(column.index)
    except ValueError:
        return column
