"""MKL's inspector-executor sparse product, called directly: with hint and optimization, as torch does not."""

import ctypes
import os
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_float, c_int, c_void_p
from ctypes.util import find_library
from functools import cache
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

GNU = 3  # MKL_THREADING_GNU: the OpenMP library that torch has loaded already
NO_TRANSPOSE, GENERAL, ROW_MAJOR, COLUMN_MAJOR = 10, 20, 101, 102


class _Description(Structure):
    _fields_ = [("type", c_int), ("mode", c_int), ("diag", c_int)]


@cache
def _library() -> Any:
    """The library, or why there is none."""
    try:
        files = metadata.files("mkl") or []
        paths = [str(file.locate()) for file in files if file.name.startswith("libmkl_rt.so")]
    except metadata.PackageNotFoundError:
        paths = []
    paths += [path for path in [find_library("mkl_rt")] if path]
    if not paths:
        return "not installed: pip install --no-deps mkl"
    try:  # its symbols must not be taken from the MKL inside torch
        mkl = ctypes.CDLL(paths[0], mode=os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_DEEPBIND", 0))
    except OSError as error:
        return str(error)
    mkl.MKL_Set_Threading_Layer(GNU)
    mkl.mkl_sparse_s_create_csr.argtypes = [POINTER(c_void_p), c_int, c_int, c_int, *[c_void_p] * 4]
    mkl.mkl_sparse_set_mm_hint.argtypes = [c_void_p, c_int, _Description, c_int, c_int, c_int]
    mkl.mkl_sparse_optimize.argtypes = mkl.mkl_sparse_destroy.argtypes = [c_void_p]
    mkl.mkl_sparse_s_mm.argtypes = [
        *(c_int, c_float, c_void_p, _Description, c_int),
        *(c_void_p, c_int, c_int, c_float, c_void_p, c_int),
    ]
    return mkl


def missing() -> str | None:
    library = _library()
    return library if isinstance(library, str) else None


def version() -> str:
    text = ctypes.create_string_buffer(200)
    _library().MKL_Get_Version_String(text, len(text))
    return text.value.decode().removeprefix("Intel(R) oneAPI Math Kernel Library Version ").split("-")[0]


class Matrix:
    """A CSR matrix of MKL, optimized for products with `batch` dense columns.

    Args:
        row_ptr, col: int32; values: fp32. Kept alive, not copied.
    """

    def __init__(self, row_ptr: Tensor, col: Tensor, values: Tensor, cols: int, batch: int, column_major: bool) -> None:
        self._mkl = _library()
        self._mkl.MKL_Set_Num_Threads(torch.get_num_threads())
        self.rows, self.batch = row_ptr.numel() - 1, batch
        self._layout = COLUMN_MAJOR if column_major else ROW_MAJOR
        self._tensors = (row_ptr, col, values)
        self._description = _Description(GENERAL, 0, 0)
        self._handle = c_void_p()
        pointers = (row_ptr.data_ptr(), row_ptr.data_ptr() + 4, col.data_ptr(), values.data_ptr())
        self._call(self._mkl.mkl_sparse_s_create_csr, byref(self._handle), 0, self.rows, cols, *pointers)
        hint = (NO_TRANSPOSE, self._description, self._layout, batch, 1_000_000)
        self._call(self._mkl.mkl_sparse_set_mm_hint, self._handle, *hint)
        self._call(self._mkl.mkl_sparse_optimize, self._handle)

    def __del__(self) -> None:
        if self._handle:
            self._mkl.mkl_sparse_destroy(self._handle)

    def linear(self, input: Tensor) -> Tensor:
        """`input [batch, cols] @ matrix.T`, contiguous `[batch, rows]`."""
        if self._layout == COLUMN_MAJOR:  # both are the transposed matrices of the product as they lie
            output = input.new_empty(self.batch, self.rows)
            self._multiply(input, input.shape[1], output, self.rows)
            return output
        output = input.new_empty(self.rows, self.batch)
        self._multiply(input.t().contiguous(), self.batch, output, self.batch)
        return output.t().contiguous()

    def _multiply(self, right: Tensor, right_stride: int, output: Tensor, output_stride: int) -> None:
        self._call(
            self._mkl.mkl_sparse_s_mm,
            *(NO_TRANSPOSE, 1.0, self._handle, self._description, self._layout),
            *(right.data_ptr(), self.batch, right_stride, 0.0, output.data_ptr(), output_stride),
        )

    @staticmethod
    def _call(function: Callable[..., int], *arguments: Any) -> None:
        if status := function(*arguments):
            raise RuntimeError(f"{function.__name__} returned status {status}")
