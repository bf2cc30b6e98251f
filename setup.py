"""Builds the compiled kernels. What pyproject.toml cannot say: which of them this machine can build.

SPARSEKERN_CPP=0      no compiled kernels: everything runs on plain PyTorch
SPARSEKERN_CUDA=0|1   without CUDA kernels, or fail if they cannot be built
TORCH_CUDA_ARCH_LIST  for which GPUs (8.0;9.0;10.0+PTX)
SANITIZE=KIND         sanitizers, of KIND address,undefined or thread; no CUDA kernels
DEBUG=1               -O0 with debug information
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import setuptools
from setuptools import Extension, setup
from setuptools.errors import CompileError

ROOT = Path(__file__).parent
ARCHITECTURES = "8.0;9.0;10.0+PTX"
SETUPTOOLS = 77  # reads the licence in pyproject.toml


def check_tools() -> None:
    """Ends the build with what is to be installed, where pip does not see to it (`--no-build-isolation`)."""
    if int(setuptools.__version__.partition(".")[0]) < SETUPTOOLS:
        sys.exit(
            f"sparsekern is built by setuptools {SETUPTOOLS} or newer, this is {setuptools.__version__}: "
            "pip install --upgrade setuptools"
        )


def missing() -> str | None:
    """What this machine lacks to compile C++, if anything."""
    program = shlex.split(os.environ.get("CXX", "c++"))[0]
    if not shutil.which(program):
        return f"no C++ compiler ({program}) found"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "Python.h not found"
    return None


def missing_for_cuda() -> str | None:
    """What this machine lacks to compile CUDA kernels, if anything."""
    import torch

    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if not compiler().exists():
        return "nvcc not found, on the PATH or in CUDA_HOME"
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.", version)
    if release is None or release[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {release[1] if release else '?'}, PyTorch of {torch.version.cuda}"
    if toolkit() is None:
        return "no libcudart_static.a beside nvcc"
    return None


def compiler() -> Path:
    """The nvcc that PyTorch would call."""
    from torch.utils.cpp_extension import CUDA_HOME

    return Path(CUDA_HOME or "", "bin", "nvcc")


def toolkit() -> Path | None:
    """The folder of the CUDA runtime that nvcc links, which may be a wrapper that lies elsewhere."""
    command = [compiler(), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    plan = subprocess.run(command, capture_output=True, text=True).stderr
    line = next((line for line in plan.splitlines() if line.startswith("#$ LIBRARIES=")), "")
    folders = (Path(folder) for folder in re.findall(r'-L([^"\s]+)', line))
    return next((folder for folder in folders if (folder / "libcudart_static.a").exists()), None)


def sources(folder: str, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / folder).rglob(pattern))


def cuda_extension() -> Extension:
    """The CUDA kernels. They bring their own CUDA runtime, so that they fit every PyTorch with that driver."""
    from torch.utils.cpp_extension import include_paths, library_paths

    architectures = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
    flags = ["-std=c++20", "-O3", "--threads=2", "--extended-lambda", "-DUSE_CUDA"]
    flags += [f'-DSPARSEKERN_ARCHITECTURES="{architectures}"']
    flags += ["-Xcompiler", "-fvisibility=hidden,-Wall,-Wextra"]
    flags += [word for path in include_paths() for word in ("-isystem", path)]
    both: Any = {"cxx": [], "nvcc": flags}
    return Extension(
        "sparsekern._CUDA",
        sources("cuda", "*.cu"),
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args=both,
        extra_link_args=["-Wl,--exclude-libs,ALL"],
        library_dirs=[*library_paths(), str(toolkit())],
        libraries=["torch_cpu", "torch_cuda", "cudart_static", "rt", "dl", "pthread"],
        language="c++",
    )


def build() -> dict:
    """The arguments of `setup` that make the extension modules."""
    cuda = os.environ.get("SPARSEKERN_CUDA")
    if os.environ.get("SPARSEKERN_CPP") == "0":
        return {}
    if reason := missing():
        if cuda == "1":
            sys.exit(f"SPARSEKERN_CUDA=1: {reason}")
        print(f"sparsekern: {reason}, the package will run on plain PyTorch", file=sys.stderr)
        return {}
    try:
        import torch
    except ImportError:
        sys.exit(
            "sparsekern: the kernels are compiled against PyTorch, which is not installed: pip install torch ninja"
        )
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

    class Build(BuildExtension):
        def build_extension(self, ext: Extension) -> None:
            try:
                super().build_extension(ext)
            except RuntimeError as error:  # of ninja; what is optional may fail in setuptools' words only
                raise CompileError(str(error)) from error

    debug, sanitize = os.environ.get("DEBUG") == "1", os.environ.get("SANITIZE")
    flags = ["-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra"]
    flags += ["-O0", "-g"] if debug else ["-O3", "-g0", "-fno-math-errno"]
    # -O1: at -O3 the instrumented convolutions take a quarter of an hour
    flags += ["-O1", "-g1", f"-fsanitize={sanitize}", "-fno-sanitize-recover"] if sanitize else []
    flags += [f"-isystem{path}" for path in include_paths()]  # system headers: no warnings

    links = [f"-fsanitize={sanitize}"] if sanitize else []
    if sys.platform == "darwin":
        links.append("-Wl,-rpath,@loader_path/../torch/lib")  # where pip puts them side by side
    common: Any = {
        "include_dirs": [str(ROOT / "csrc")],
        "extra_compile_args": flags,
        "extra_link_args": links,
        "library_dirs": library_paths(),
        "language": "c++",
    }
    kernels = ["csrc/module.cpp", *sources("cpu", "*.cpp")]
    # Its name says for which PyTorch: it is outside of the stable ABI.
    version = re.sub(r"[^0-9A-Za-z]", "_", torch.__version__)
    libraries = ["torch_cpu", "torch_python", "c10"]
    extensions = [
        Extension("sparsekern._C", kernels, libraries=["torch_cpu"], **common),
        # Where a newer PyTorch does not take it, derivatives run in Python.
        Extension(
            f"sparsekern._autograd_{version}", ["csrc/autograd.cpp"], libraries=libraries, optional=True, **common
        ),
    ]
    if cuda != "0" and not sanitize:
        if (reason := missing_for_cuda()) is None:
            extensions.append(cuda_extension())
        elif cuda == "1":
            sys.exit(f"SPARSEKERN_CUDA=1: {reason}")
        else:
            print(f"sparsekern: {reason}, without CUDA C++ kernels", file=sys.stderr)
    return {"ext_modules": extensions, "cmdclass": {"build_ext": Build}}


check_tools()
setup(**build())
