"""Two threads beside processes that keep processors busy: ``python busy_run.py --seconds 5``.

Prints the mean time of two threads over one thread's, by turns in one process, beside 0, 1 and 2 busy processes; and
how many calls a second two processes of two threads do together, over two of one thread. For a machine with nothing
else to do; the processes are kept on two processors, as many as threads.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time

import numpy as np

import fastrecur

CASES = [
    ("(2048, 1024) forward", (2048, 1024), False),
    ("(2048, 1024) gradient", (2048, 1024), True),
    ("(20000, 640) forward", (20000, 640), False),
    ("(64, 100000) forward", (64, 100000), False),
]
TURN = 0.2  # seconds, many time slices


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each number of threads in each measurement")
    parser.add_argument("--process", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        return serve(options.process, options.seconds)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    print(f"{'mean time of two threads over one':<36}{'beside 0':>10}{'1':>8}{'2':>8}")
    for name, shape, is_back in CASES:
        call = prepared(shape, is_back)
        ratios = [two_over_one(call, options.seconds, count) for count in range(3)]
        print(f"{name:<36}{ratios[0]:>10.2f}{ratios[1]:>8.2f}{ratios[2]:>8.2f}", flush=True)
    for name, _, is_back in CASES[:2]:
        of_one, of_two = (together(threads, is_back, options.seconds) for threads in (1, 2))
        print(f"{name + ', two processes':<46}{of_two / of_one:.2f} ({of_two:.0f} and {of_one:.0f} calls a second)")


def prepared(shape, is_back):
    """Return a call without arguments."""
    rng = np.random.default_rng(0)
    f, x = rng.random(shape, np.float32), rng.standard_normal(shape, np.float32)
    h = fastrecur.forget_mult(f, x)
    if is_back:
        return lambda: fastrecur.forget_mult_vjp(h, f, x, h)
    return lambda: fastrecur.forget_mult(f, x, out=h)


@contextlib.contextmanager
def busy(count):
    """Let so many processes do nothing as fast as they can."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.3)  # until they have begun
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def two_over_one(call, seconds, others):
    """Return the mean time of a call on two threads over that on one, by turns, beside so many busy processes."""
    took, calls = {1: 0.0, 2: 0.0}, {1: 0, 2: 0}
    with busy(others):
        while took[2] < seconds:
            for threads in took:
                fastrecur.set_num_threads(threads)
                call()
                start = now = time.perf_counter()
                while now - start < TURN:
                    call()
                    calls[threads] += 1
                    now = time.perf_counter()
                took[threads] += now - start
    one, two = (took[threads] / calls[threads] for threads in (1, 2))
    return two / one


def together(threads, is_back, seconds):
    """Return how many calls a second two processes do that begin at the same time."""
    command = [sys.executable, __file__, "--process", str(threads), "--seconds", str(seconds)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(2)
    ]
    for process in both:
        process.stdin.write(f"{int(is_back)}\n")
    for process in both:
        process.stdout.readline()  # it is ready
    start = time.monotonic() + 0.1
    for process in both:
        process.stdin.write(f"{start}\n")
    return sum(float(process.communicate()[0]) for process in both)


def serve(threads, seconds):
    """Be one of two processes: say that it is ready, begin when told, say how many calls a second it did."""
    fastrecur.set_num_threads(threads)
    call, count = prepared((2048, 1024), input() == "1"), 0
    call()
    print("ready", flush=True)
    start = float(input())
    while time.monotonic() < start:
        pass
    while time.monotonic() < start + seconds:
        call()
        count += 1
    print(count / seconds)


if __name__ == "__main__":
    main()
