"""A plugin for pytest: the array library's own tests, on a card that interprets its kernels.

Every array that a test passes is a device's, every launch is done by `simulator.Driver`: in random order, in memory
that begins as NaN, and with every access looked at. Sizes are small: those in a test's parameters and in the lists of
its module are cut down, and a test ends where it comes to a problem that is larger. Of a test's parameters every other
set is run, of the longest tests' every fourth: kernels do not depend on most of them, and an interpreted one takes
thousands of times as long.
"""

import sys
import zlib

import hypothesis
import pytest
from hypothesis import strategies

LONGEST, LARGEST = 12, 1000
# Tests that are not about arrays on a device, and why.
OTHERS = {
    "test_last_state_is_the_last_step": "asks how NumPy holds its memory",
    "test_complex_values_with_a_real_gate": "the CPU alone averages complex values",
    "test_python_numbers_alone": "there is no array",
    # Of `test_segments`:
    "test_errors": "of offsets on a device no number is looked at",
    "test_other_dtypes": "the CPU alone averages complex values",
    "test_out_may_not_be_where_borders_are": "its numbers share memory as two dtypes of NumPy's",
}
LONG = {"test_sizes_around_a_vector", "test_broadcasting", "test_broadcasting_sums", "test_ragged", "test_forward"}


class TooLarge(pytest.skip.Exception):
    """What ends a test."""


def pytest_configure(config):
    # Not before: conftest lets pytest rewrite what these import.
    import devices
    import layouts
    import simulator

    from fastrecur._cuda import launch, plan
    from fastrecur._cuda.kernels import catalog, look_back, scan, sums

    config.driver = driver = simulator.Driver()
    cupy = sys.modules["cupy"] = devices.Cupy(driver)
    launch.driver = lambda: driver
    simulator.like_compiled_code(setattr)
    devices.run_on(cupy, setattr)
    plan.choose, plan.FEW_LANES = in_tiles(plan.choose), 2
    for module in (look_back, scan):  # so that a tile is less than a dozen steps
        module.WARPS, module.THREADS = 1, 32
    catalog.THREADS["scan"] = catalog.THREADS["scan_vjp"] = 32
    # For so few summands most threads would have nothing to do.
    sums.THREADS = catalog.THREADS["sums"] = 64
    hypothesis.settings.register_profile("few", hypothesis.settings.get_profile("fastrecur"), max_examples=5)
    hypothesis.settings.load_profile("few")
    config.launched = set()
    # What stands unaligned or in another byte order stands on no card.
    layouts.FOREIGN[:] = [layouts.read_only, layouts.memory_mapped]


def in_tiles(choose):
    """Let every other length be cut into tiles, as only long ones are."""

    def chosen(lanes, steps, neighbours, contiguous, word, ahead, by_lanes=False, *executed):
        if lanes * steps > LARGEST:
            raise TooLarge("too large to be interpreted")
        choice = choose(lanes, steps, neighbours, contiguous, word, ahead, by_lanes, *executed)
        return choice._replace(tiles=2 if steps > 8 and steps % 2 and not by_lanes else 1)

    return chosen


def small(value):
    """Cut sizes down."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(small, value))
    return LONGEST - value % 4 if type(value) is int and value > LONGEST else value


def is_chosen(item):
    """Choose some of what a test has parameters for, at random, and the same ones in each run."""
    share = 4 if item.originalname in LONG else 2
    return not hasattr(item, "callspec") or zlib.crc32(item.name.encode()) % share == 0


def pytest_collection_modifyitems(config, items):
    items[:] = [item for item in items if item.originalname not in OTHERS and is_chosen(item)]
    for module in {item.module for item in items}:
        for name, value in vars(module).items():
            if name.isupper() and type(value) is list:
                value[:] = dict.fromkeys(small(value))
        if hasattr(module, "SIDES"):
            module.SIDES = strategies.sampled_from([1, 2, 3, 5, 8])


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    driver, config = pyfuncitem.config.driver, pyfuncitem.config
    pyfuncitem.funcargs.update({name: small(value) for name, value in pyfuncitem.funcargs.items()})
    driver.seed += 1
    try:
        return (yield)
    except TooLarge:
        if not driver.log:
            raise
        return True
    finally:
        config.launched.update(entry[1] for entry in driver.log if entry[0] == "launch")
        driver.forget()


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.line(f"launched: {' '.join(sorted(config.launched))}")
