"""Every test file on a machine with a GPU, a process each, a row written as each ends: run again, it goes on with the
files that have not passed with the same sources.

python -m benchmarks.gpu_tests --out DIR    0: all passed; 1: some failed; 3: not all were run in the time
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNFINISHED = 3
LONGEST = 900  # seconds of one file


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu_tests", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="where gpu-tests.jsonl goes")
    parser.add_argument("--seconds", type=float, default=480, metavar="T", help="no file is begun after (default 480)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=max(1, min(8, cores // 2)), metavar="N", help="processes")
    parser.add_argument("files", nargs="*", type=Path, help="test files (default: all)")
    arguments = parser.parse_args(argv)
    files = arguments.files or sorted((ROOT / "tests").rglob("test_*.py"))
    names = [str(file.resolve().relative_to(ROOT)) for file in files]
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, sources = arguments.out / "gpu-tests.jsonl", fingerprint()
    done = passed(rows, sources)
    end = time.monotonic() + arguments.seconds

    def examine(name: str) -> bool | None:
        if time.monotonic() > end:
            return None
        row = {**tested(name), "sources": sources}
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{'passed' if row['passed'] else 'FAILED'}  {row['seconds']:6.1f} s  {name}  {row['summary']}", flush=True
        )
        return row["passed"]

    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(examine, [name for name in names if name not in done]))
    counts = len(done & {*names}) + results.count(True), results.count(False), results.count(None)
    print("{} files passed, {} failed, {} are left".format(*counts))
    return 1 if counts[1] else UNFINISHED if counts[2] else 0


def fingerprint() -> str:
    """Returns a checksum of everything that the tests run."""
    digest = hashlib.sha256()
    for folder in ("sparsekern", "csrc", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".json", ".so", ".h", ".cpp", ".cu", ".cuh") and "results" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def passed(rows: Path, sources: str) -> set[str]:
    """The files that have passed with these sources."""
    if not rows.exists():
        return set()
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    return {row["file"] for row in found if row["passed"] and row["sources"] == sources}


def tested(name: str) -> dict:
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "-q"]
    command += ["--strict-markers", "--import-mode=importlib", name]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"file": name, "passed": False, "seconds": LONGEST, "summary": "stopped: a kernel may hang"}
    none = run.returncode == 5  # no tests: a file whose tests need what this machine has not
    lines = run.stdout.strip().splitlines()
    row = {"file": name, "passed": none or run.returncode == 0, "seconds": round(time.monotonic() - start, 1)}
    if not row["passed"]:
        print(run.stdout[-6000:] + run.stderr[-2000:], file=sys.stderr)
    return {**row, "summary": lines[-1].strip("= ") if lines else ""}


if __name__ == "__main__":
    sys.exit(main())
