"""Builds the compiled kernels. What pyproject.toml cannot say: which of them this machine can build.

SPARSEKERN_CPP=0    no compiled kernels: everything runs on plain PyTorch
DEBUG=1             -O0 with debug information
"""

import os
import shutil
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def extensions() -> list:
    if os.environ.get("SPARSEKERN_CPP") == "0":
        return []
    if not shutil.which(os.environ.get("CXX", "c++")):
        print("sparsekern: no C++ compiler found, the package will run on plain PyTorch")
        return []
    from torch.utils.cpp_extension import CppExtension

    sources = ["csrc/module.cpp", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/cpu").glob("*.cpp"))]
    optimize = ["-O0", "-g"] if os.environ.get("DEBUG") == "1" else ["-O3", "-fno-math-errno"]
    return [
        CppExtension(
            "sparsekern._C",
            sources,
            include_dirs=[str(ROOT / "csrc")],
            extra_compile_args=["-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra", *optimize],
        )
    ]


def commands() -> dict:
    if os.environ.get("SPARSEKERN_CPP") == "0":
        return {}
    from torch.utils.cpp_extension import BuildExtension

    return {"build_ext": BuildExtension}


setup(ext_modules=extensions(), cmdclass=commands())
