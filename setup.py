"""Builds the compiled kernels. What pyproject.toml cannot say: which of them this machine can build.

SPARSEKERN_CPP=0     no compiled kernels: everything runs on plain PyTorch
SPARSEKERN_CUDA=0|1  without CUDA kernels, or fail if there are none to build
SANITIZE=1           address and undefined-behaviour sanitizers
DEBUG=1              -O0 with debug information
"""

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent


def missing() -> str | None:
    """What this machine lacks to compile C++, if anything."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    if not shutil.which(compiler):
        return f"no C++ compiler ({compiler}) found"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "Python.h not found"
    return None


def build() -> dict:
    """The arguments of `setup` that make the extension module."""
    if os.environ.get("SPARSEKERN_CUDA") == "1":
        sys.exit("SPARSEKERN_CUDA=1: this version has no CUDA kernels")
    if os.environ.get("SPARSEKERN_CPP") == "0":
        return {}
    if reason := missing():
        print(f"sparsekern: {reason}, the package will run on plain PyTorch", file=sys.stderr)
        return {}
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

    debug, sanitize = os.environ.get("DEBUG") == "1", os.environ.get("SANITIZE") == "1"
    flags = ["-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra"]
    flags += ["-O0", "-g"] if debug else ["-O3", "-g0", "-fno-math-errno"]
    # -O1: at -O3 the instrumented convolutions take a quarter of an hour
    flags += ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover"] if sanitize else []
    flags += [f"-isystem{path}" for path in include_paths()]  # system headers: no warnings

    extension = Extension(
        "sparsekern._C",
        ["csrc/module.cpp", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc/cpu").rglob("*.cpp"))],
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args=flags,
        extra_link_args=["-fsanitize=address,undefined"] if sanitize else [],
        library_dirs=library_paths(),
        libraries=["torch_cpu"],
        language="c++",
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


setup(**build())
