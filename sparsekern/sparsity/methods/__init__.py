"""The published methods, each a composition of the vocabulary.

Every constructor is called `NAME(sparsity=, total_steps=, steps_per_epoch=None, **options)` and returns a `Method`;
the options are the paper's hyperparameters with the paper's defaults. `total_steps` counts optimizer steps.
"""

from .after import lottery, magnitude_after, oneshot_ft, rewind
from .before import dense, fixed, magnitude_init, random, snip, snip_mb
from .channel import random_channel, three_sp
from .deepr import deepr
from .dnw import dnw
from .dpf import dpf, dpf_filter, dpf_layerwise
from .dsr import dsr
from .force import force, iter_snip
from .gmp import gmp
from .granet import granet
from .grasp import grasp, grasp_abs, grasp_magnitude
from .gse import gse_grabo, gse_graest, gse_random, gse_synflow
from .optg import optg
from .prospr import prospr, prospr_channel, prospr_first_order
from .registry import describe, get, names
from .rigl import rigl
from .set import set
from .sfp import sfp
from .snfs import snfs
from .snr import snr, snr_frozen
from .soft_threshold import str
from .synflow import synflow

__all__ = [
    "deepr",
    "dense",
    "describe",
    "dnw",
    "dpf",
    "dpf_filter",
    "dpf_layerwise",
    "dsr",
    "fixed",
    "force",
    "get",
    "gmp",
    "granet",
    "grasp",
    "grasp_abs",
    "grasp_magnitude",
    "gse_grabo",
    "gse_graest",
    "gse_random",
    "gse_synflow",
    "iter_snip",
    "lottery",
    "magnitude_after",
    "magnitude_init",
    "names",
    "oneshot_ft",
    "optg",
    "prospr",
    "prospr_channel",
    "prospr_first_order",
    "random",
    "random_channel",
    "rewind",
    "rigl",
    "set",
    "sfp",
    "snfs",
    "snip",
    "snip_mb",
    "snr",
    "snr_frozen",
    "str",
    "synflow",
    "three_sp",
]
