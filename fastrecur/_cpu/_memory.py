"""The dialect that kernels are written in, whose files are below: kernels import it from here.

A kernel's arguments are addresses and integers. Its signature names the element type behind each address, so one
kernel serves every dtype, every layout and read-only data, and a call costs no array unboxing. Offsets between rows
and lanes are bytes (`shift`); the index of `load` and `store` counts elements. Values are converted on the way:
kernels compute in the *carry* type only.

With ``NUMBA_DISABLE_JIT=1`` the same names work on addresses in the interpreter, so kernels can be traced.
"""

# ruff: noqa: F401
from ._arithmetic import compiled_truth, implement
from ._scalars import (
    copy_number,
    fence,
    in_place,
    is_own_kind,
    itemsize,
    load,
    load_int,
    maximum,
    minimum,
    misalignment,
    own_page,
    prefetch,
    prefetch_to_write,
    shift,
    stack,
    stack_ints,
    stack_of,
    stack_wide,
    store,
    width,
)
from ._transposes import (
    collect_octet,
    copy_every,
    copy_turned,
    load_octet,
    prefetch_octet,
    prefetch_octet_to_write,
    stack_lines,
    store_octet,
    stream_lines,
)
from ._types import HAS_AVX, HAS_BFLOAT, INTERPRETED, LINE, OCTET, WIDTH, Address, Pointer, Rule
from ._vectors import (
    broadcast,
    earlier,
    hidden_zero,
    lane_of,
    later,
    load_half_vector,
    load_row,
    load_vector,
    row_total,
    spread_of,
    spread_row,
    store_row,
    store_vector,
    stream_vector,
    total,
    turned,
)
