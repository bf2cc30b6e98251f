"""A CSV file as tensors: standardised numbers, one-hot categories, statistics of the training rows only."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import UsageError, choose, require


def read_csv(path: Path, target: str) -> tuple[Any, Tensor]:
    """The feature columns (a data frame) and the class of every row, int64, classes in sorted order.

    Raises:
        UsageError: no such file or column, fewer than five rows, a missing or continuous target.
    """
    pandas = require("pandas")
    try:
        frame = pandas.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UsageError(f"cannot read {path}: {error}") from error
    column = frame[choose("column", target, [str(name) for name in frame.columns])]
    features = frame.drop(columns=target)
    if len(frame) < 5 or features.shape[1] == 0:
        raise UsageError(f"{path} has {len(frame)} rows and {features.shape[1]} feature columns; need 5 and 1")
    if column.isna().any():
        raise UsageError(
            f"column {target!r} of {path} is empty in {int(column.isna().sum())} rows; remove or fill them"
        )
    classes, labels = np.unique(column.to_numpy(), return_inverse=True)
    if len(classes) < 2:
        raise UsageError(f"column {target!r} of {path} holds one class only, {classes[0]!r}")
    if column.dtype.kind == "f" and (classes != np.round(classes)).any():
        raise UsageError(f"column {target!r} of {path} is continuous ({len(classes)} values); a target must be a class")
    return features, torch.from_numpy(labels).long()


def encode(frame: Any, train: np.ndarray) -> Tensor:
    """Feature columns as float32 `[rows, features]`; mean, deviation and categories come from the rows `train`.

    A missing number becomes the mean. A missing or never seen category is all zeros. A column that is constant or
    empty on the training rows becomes zeros.
    """
    columns = []
    for name in frame.columns:
        column = frame[name]
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
            columns.append((text[:, None] == categories).astype(np.float64))
    return torch.from_numpy(np.concatenate(columns, axis=1)).float()
