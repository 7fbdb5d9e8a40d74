"""Measure fastrecur against the memory, plain loops and other libraries, on this machine.

Measures the checkout that this file lies in. Every result is compared with the definition in the
same run; where one is wrong there is no ratio, and the exit status is 1.
"""

import argparse
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import checks  # noqa: E402
import report  # noqa: E402
from cases import Layout, all_cases  # noqa: E402
from data import Data  # noqa: E402
from measure import Bench, Effort  # noqa: E402
from tqdm import tqdm  # noqa: E402
from yardsticks import Team  # noqa: E402

import fastrecur  # noqa: E402

FULL = Effort(seconds=1.2, fewest=7, most=1000)
QUICK = Effort(seconds=0.12, fewest=3, most=100)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the same cases, fewer repeats")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    parser.add_argument("--chart", metavar="FILE", type=Path, help="draw them there (png, svg)")
    parser.add_argument("--only", metavar="REGEX", type=re.compile, help="cases it finds")
    parser.add_argument("--threads", metavar="N", type=int, help="fastrecur's and the yardsticks'")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, no more")
    return parser.parse_args(arguments)


def main(arguments):
    options = parse(arguments)
    cases = [case for case in all_cases() if not options.only or options.only.search(case.name)]
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    if not cases:
        print("no case has such a name; see --list", file=sys.stderr)
        return 2
    if options.threads:
        fastrecur.set_num_threads(options.threads)
    team = Team(fastrecur.get_num_threads())
    checks.check_the_checks(team, lambda axis, dtype: Data(Layout("", (7, 37, 11), axis), dtype))
    bench = Bench(team, QUICK if options.quick else FULL)
    rows, began = [], time.perf_counter()
    with tqdm(cases, unit="case", file=sys.stderr, dynamic_ncols=True) as bar:
        for case in bar:
            bar.set_description(case.name)
            rows += bench.rows(case)
    about = report.about(__file__, arguments, team.threads, time.perf_counter() - began)
    print(report.table(rows, about))
    if options.json:
        report.write_json(options.json, rows, about)
    if options.chart:
        import chart

        chart.draw(options.chart, rows, about)
    return 1 if any(row.is_wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
