"""Random calls of all functions, compared with loops that share no code with the package.

    python tests/fuzz.py --minutes 60 --seed 7
    python tests/fuzz.py --seed 7 --only filters --go-on
    python tests/fuzz.py --seed 7 --case 1234

Operands are drawn from `tests/records.py`, each in a form of its own: a number, broadcast, of another dtype, of any
strides, left out. Calls are made with arrays, tensors, on a device without kernels, and compiled; their gradients are
compared too; then again, after a call with one thing changed. `tests/fuzzing` has the parts: ``draw`` operands,
families of functions, ``oracles``, and ``ways`` of calling. A failure prints the number of its case; the same seed and
number are the same case. With NUMBA_DISABLE_JIT=1 kernels run as Python, and scans are smaller.
"""

import argparse
import collections
import faulthandler
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(p) for p in (HERE, HERE.parent) if str(p) not in sys.path]

from fuzzing import cases  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(cases.FAMILIES), help="this family alone")
    parser.add_argument("--case", type=int, help="this case alone")
    parser.add_argument("--go-on", action="store_true", help="go on after a failure, which ends a run otherwise")
    parser.add_argument("--name", action="store_true", help="print each case's number first: a crash is of the last")
    asked = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("error")
    for message in (
        "`torch.jit.[a-z_]*` is deprecated",
        "The .grad attribute of a Tensor that is not a leaf",
    ):  # torch's
        warnings.filterwarnings("ignore", message=message)
    end, failures, count = time.monotonic() + 60 * asked.minutes, 0, collections.Counter()
    numbers = [asked.case] if asked.case is not None else cases.numbers(asked.seed, asked.only)
    with progress(60 * asked.minutes) as bar:
        for number in numbers:
            if asked.name:
                print(number, file=sys.stderr, flush=True)
            case = cases.Case(asked.seed, number)
            try:
                case.run()
            except Exception as error:
                failures += 1
                report(case, error, asked)
                if not asked.go_on:
                    sys.exit(1)
            count[case.family_name] += 1
            left = end - time.monotonic()
            bar.at(60 * asked.minutes - left)
            if left < 0:
                break
    each = ", ".join(f"{n} {name}" for name, n in sorted(count.items()))
    print(f"{count.total()} random cases of seed {asked.seed} in {asked.minutes:g} minutes, {failures} failed: {each}")
    sys.exit(failures > 0)


def report(case, error, asked):
    """Print what a person needs to run a case again."""
    lines = traceback.format_exception(error)
    print("".join(lines if not asked.go_on else lines[-3:])[-6000:], file=sys.stderr)
    print(f"python tests/fuzz.py --seed {asked.seed} --case {case.number}\n    {case}\n", file=sys.stderr, flush=True)


class progress:
    """A bar of seconds, on a terminal with tqdm."""

    def __init__(self, seconds):
        self.bar = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm

                self.bar = tqdm(total=round(seconds), unit="s")
            except ImportError:
                pass

    def at(self, seconds):
        if self.bar:
            self.bar.update(min(self.bar.total, round(seconds)) - self.bar.n)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.bar:
            self.bar.close()


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
