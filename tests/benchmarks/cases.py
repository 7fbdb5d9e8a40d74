"""Every case of the benchmark: which layouts, in what variants, against what, and what is expected.

`GROUPS` is the one table that drives the run, the report and the chart. To measure something new,
add a layout or a group here.
"""

from dataclasses import dataclass, field

ALPHA = 0.1  # the constant gate


@dataclass(frozen=True)
class Layout:
    """How the arrays of a case lie in memory.

    The operands are views ``base.transpose(order)`` of C-contiguous arrays; with `gates` the gate
    and the candidate are slices of the last axis of one array that is `gates` times as wide.
    """

    name: str
    base: tuple[int, ...]
    axis: int = 0
    order: tuple[int, ...] | None = None
    gates: int = 0

    @property
    def shape(self):
        return tuple(self.base[k] for k in self.order) if self.order else self.base


@dataclass(frozen=True)
class Variant:
    direction: str  # forward or vjp
    gate: str  # full (an array) or constant (a Python float)
    output: str  # out= (written before, no page faults) or fresh (the gradients always are)

    @property
    def words(self):
        """Words that must move for an element: read the operands, write the results."""
        return {"forward": (3, 2), "vjp": (6, 4)}[self.direction][self.gate == "constant"]


@dataclass(frozen=True)
class Group:
    """Layouts that are measured in the same way and have to reach the same.

    `against` names what stands beside fastrecur in the same run: ``triad``, ``copy``, ``loop``,
    ``float32``, ``peers``, or ``nothing`` where the time of a call is itself the figure (in
    microseconds, and less is better).
    """

    title: str
    layouts: tuple[Layout, ...]
    against: str = "triad"
    must: float | dict[str, float] = 0.0
    aim: float | dict[str, float] = 0.0
    variants: tuple[Variant, ...] = ()
    dtypes: tuple[str, ...] = ("float32", "float64")


@dataclass(frozen=True)
class Case:
    group: Group
    layout: Layout
    dtype: str
    variant: Variant
    name: str = field(init=False)

    def __post_init__(self):
        v = self.variant
        parts = self.group.title, self.layout.name, v.direction, f"{v.gate} gate", v.output
        object.__setattr__(self, "name", ", ".join((*parts, self.dtype)))

    def expected(self, what):
        """Return (must, aim) of the comparison with `what`."""
        limits = self.group.must, self.group.aim
        return tuple(limit[what] if isinstance(limit, dict) else limit for limit in limits)


FORWARD = tuple(Variant("forward", gate, output) for gate in ("full", "constant") for output in ("out=", "fresh"))
GRADIENTS = tuple(Variant("vjp", gate, "fresh") for gate in ("full", "constant"))
ALL = FORWARD + GRADIENTS

LARGE = Layout("(20000, 640)", (20000, 640))
WIDE = Layout("(512, 65536)", (512, 65536))

GROUPS = (
    Group("time first, larger than the cache", (LARGE, WIDE), must=0.95, aim=1.2, variants=ALL),
    Group(
        "time first, in the cache",
        (Layout("(2048, 1024)", (2048, 1024)), Layout("(105, 12800)", (105, 12800))),
        must=0.7, aim=1.0, variants=ALL,
    ),
    Group(
        "time last",
        (Layout("(64, 100000)", (64, 100000), axis=1),),
        must=0.65, aim=1.0, variants=ALL,
    ),
    Group(
        "time last, strides that collide",
        (Layout("(4096, 512)", (4096, 512), axis=1),),
        must=0.5, aim=1.0, variants=ALL,
    ),
    Group(
        "other layouts",
        (
            Layout("a gate of (105, 40, 3*640)", (105, 40, 640), gates=3),
            Layout("(64, 512, 320), time in the middle", (64, 512, 320), axis=1),
            Layout("(32, 512, 320) as (512, 32, 320)", (32, 512, 320), order=(1, 0, 2)),
            Layout("(320, 512, 32) as (512, 32, 320)", (320, 512, 32), order=(1, 2, 0)),
        ),
        must=0.85, aim=1.0, variants=ALL,
    ),
    Group(
        "one series",
        (Layout("(1000000,)", (1_000_000,)),),
        against="loop", must=2.5, aim=6.0, variants=ALL,
    ),
    Group(
        "float gate reads x only",
        (LARGE,),
        against="copy", must=0.95, aim=1.1,
        variants=tuple(v for v in FORWARD if v.gate == "constant"),
    ),
    Group(
        "half precision",
        (LARGE,),
        against="float32", must=1.5, aim=2.0, variants=ALL, dtypes=("float16", "bfloat16"),
    ),
    Group(
        "other libraries",
        (
            Layout("(1000000,)", (1_000_000,)),
            Layout("(100000, 64), time first", (100_000, 64)),
            Layout("(64, 100000), time last", (64, 100_000), axis=1),
        ),
        against="peers",
        must={"scipy lfilter": 4, "pandas": 4, "polars": 4, "numbagg": 2},
        aim={"scipy lfilter": 10, "pandas": 10, "polars": 10, "numbagg": 6},
        variants=(Variant("forward", "constant", "fresh"),),
    ),
    Group(
        "a call on 16 elements",
        (Layout("(16,)", (16,)),),
        against="nothing",
        must={"forward": 5, "vjp": 8},
        aim={"forward": 3, "vjp": 5},
        variants=(Variant("forward", "full", "fresh"), Variant("vjp", "full", "fresh")),
    ),
)  # fmt: skip


def all_cases():
    """Return the cases so ordered that those which share arrays follow each other."""
    return [
        Case(group, layout, dtype, variant)
        for group in GROUPS
        for layout in group.layouts
        for dtype in group.dtypes
        for variant in group.variants
    ]
