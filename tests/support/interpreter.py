"""Triton's interpreter, for machines without a GPU: to be called before a kernel is imported."""

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch


def use_interpreter() -> None:
    if find_spec("triton") is None:
        return
    os.environ.setdefault("TRITON_INTERPRET", "1")
    from triton import language
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        # Triton 3.6 makes an int of an array of one element in a way that NumPy 2.4 refuses.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_tensor

    dot = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        # bfloat16 is held as its bits, which would be multiplied as whole numbers.
        wide = (self.cast_impl(t, language.float32) if t.dtype.scalar == language.bfloat16 else t for t in (a, b))
        return dot(self, *wide, *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot

    cast = interpreter.InterpreterBuilder.cast_impl

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if (source.dtype.scalar, target.scalar) != (language.float32, language.bfloat16):
            return cast(self, source, target)
        # To the nearest, as a card does; the interpreter cuts digits off.
        narrow = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.int16).numpy()
        return interpreter.TensorHandle(narrow.view(np.uint16), language.bfloat16)

    for name in ("cast_impl", "create_fp_trunc"):
        setattr(interpreter.InterpreterBuilder, name, cast_impl)
