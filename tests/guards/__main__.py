"""Generated cases until one fails, or for a while: `PYTHONPATH=tests python -m guards --help`."""

import argparse
import random
import sys
import time

from .guard import NAMES, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m guards", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="GUARD", help=f"which: {', '.join(NAMES)} (default: all but kills)")
    parser.add_argument("--cases", type=int, help="how many of each")
    parser.add_argument("--seconds", type=float, help="how long, all together (default: 300)")
    parser.add_argument("--seed", type=int, help="of the first case (default: any)")
    given = parser.parse_args()
    names = given.names or [name for name in NAMES if name != "kills"]
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"there is no guard {', '.join(unknown)}, only {', '.join(NAMES)}")
    first = random.SystemRandom().randrange(10**9) if given.seed is None else given.seed
    start = time.monotonic()
    seconds = 300.0 if given.seconds is None and given.cases is None else given.seconds
    failed = []
    for i, name in enumerate(names, 1):
        until = None if seconds is None else start + seconds * i / len(names)
        count = run(name, first, given.cases, until)
        print(
            f"{name}: {count.cases} cases from {first} on, {'one failed' if count.failed else 'none failed'}",
            flush=True,
        )
        failed += [name] if count.failed else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
