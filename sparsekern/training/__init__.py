"""Training runs: a configuration, its model, data and optimizer, and a folder from which to resume.

Examples:
    >>> from pathlib import Path
    >>> from sparsekern import data, training
    >>> folder = Path("runs/try")
    >>> folder.mkdir(parents=True)
    >>> config = training.configure(method="rigl", sparsity=0.95, model="lenet300", epochs=2)
    >>> run = training.Run(config, data.load(config))
    >>> summary = training.train(run, folder)
    >>> run = training.restore(folder, epochs=4)  # goes on bit for bit
"""

from .config import DEFAULTS, RESUMABLE, configure, emerges, known_options
from .learning_rate import learning_rate
from .loop import finish, restore, train, train_epochs
from .run import Run

__all__ = [
    "DEFAULTS",
    "RESUMABLE",
    "Run",
    "configure",
    "emerges",
    "finish",
    "known_options",
    "learning_rate",
    "restore",
    "train",
    "train_epochs",
]
