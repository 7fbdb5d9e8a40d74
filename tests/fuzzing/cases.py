"""A case by its number: which family, which traits, which way of calling."""

import itertools

import numpy as np

from . import device, families, frames, networks, signals, summaries, ways
from .draw import pick

device.place()

CALLS = 8  # cases that have traits in common, so that a run's time is not that of the compiler
AT_ONCE = 4  # traits that take turns

FAMILIES = {
    "recurrences": families.Recurrences(), "scan": families.Scan(), "filters": signals.Filters(),
    "both_ways": signals.BothWays(), "levels": signals.Levels(), "statistics": summaries.Statistics(),
    "returns": summaries.Returns(), "others": families.Others(), "frames": frames.Frames(),
    "networks": networks.Networks(), "pairs": summaries.Pairs(), "seasons": signals.Seasons(),
}  # fmt: skip
TURNS = ["recurrences", "filters", "scan", "levels", "networks", "statistics", "filters", "returns", "frames",
         "both_ways", "recurrences", "scan", "networks", "others", "pairs", "seasons"]  # fmt: skip


def traits_number(seed, number):
    """Return the number of the traits of a case: one of those that take turns."""
    turn = int(np.random.default_rng([seed, number, 2]).integers(AT_ONCE))
    return max(0, number // CALLS - turn)


def numbers(seed, only=None):
    """Return the numbers of cases, of a family or all."""
    for number in itertools.count():
        if only is None or TURNS[traits_number(seed, number) % len(TURNS)] == only:
            yield number


class Case:
    """A random call, and how it is made."""

    def __init__(self, seed, number):
        self.number, own = number, traits_number(seed, number)
        self.family_name = TURNS[own % len(TURNS)]
        self.family = FAMILIES[self.family_name]
        self.traits, self.rng = (np.random.default_rng(key) for key in ([seed, own, 0], [seed, number, 1]))
        name = pick(self.traits, self.family.functions)
        self.way = pick(self.rng, self.family.ways or ways.WAYS)
        self.call = self.family.draw(name, self.traits, self.rng)

    def run(self):
        self.way(self.family, self.call, self.traits, self.rng)

    def __repr__(self):
        return f"{self.way.__name__} of {self.call}"
