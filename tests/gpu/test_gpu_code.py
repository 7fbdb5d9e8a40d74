"""The GPU's kernels as machine code: no spills, no stray double arithmetic, wide and batched loads."""

import itertools

import devices
import pytest
import table
from machine_code import together
from problems import DTYPES, FORGET, LINEAR, SHAPES, kernels, pooling, scanning

SIZES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
SCANNED = "tiles of lanes", "tiles of series"
CASES = [case for case in SHAPES if case not in SCANNED]
AVERAGES = "forget_wide", "forget_same"
RULES = *AVERAGES, "linear", ""  # the last is a pooling's
CARDS = {
    f"sm_{10 * major + minor}": (major, minor)
    for major, minor in [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
}


def kernel_carry(kernel):
    """The name of what a kernel computes in."""
    return {"f4": "float32", "f8": "float64"}[kernel.key[2]]


def check(kernel, code, dtype, card):
    assert code.local == 0, "spilled"
    assert code.registers <= 65536 // (kernel.threads * kernel.target(CARDS[card])[1])
    # Calls are the shuffles' of a warp that has lost its step, before compute capability 9.0, and those of quotients
    # near the ends of the range.
    calls = [line for line in code.text.splitlines() if "CALL.ABS" in line and "__cuda_sm70_" not in line]
    if kernel.name.startswith(("pool", "selective")):
        calls = [line for line in calls if "_slowpath" not in line and "_div_rn_f64_full" not in line]
    assert not calls or kernel.name == "sums"
    if dtype != "float64":
        assert not [op for op in code.opcodes if op in ("DADD", "DMUL", "DFMA") or op.startswith("DSETP")]
    options, elements = dict(kernel.key[3]), dict(kernel.key[4])
    wide = sum(count for op, count in code.opcodes.items() if op.startswith("LDG") and ".128" in op)
    is_scan = kernel.name in ("scan", "scan_vjp")
    packs = [pack for name, pack in options.get("packs", ()) if name in ("a", "b")]
    if any(packs):
        assert wide >= 2
    if is_scan or kernel.name.startswith("selective"):
        assert 0 < 2 * code.shared <= table.CARDS[card].shared << 10
    if (any(packs) or is_scan) and "number" not in elements.values() and not options.get("is_fix_up"):
        operands = 2 if not kernel.name.endswith("_vjp") else 3 if kernel.key[1] == "linear" else 4
        share = 0.8 if options["cuts"] else 0.9  # addresses of flags take registers
        assert code.in_flight >= share * operands * options["count"] * SIZES[dtype], "operands wait for each other"
    if is_scan:
        # A summary and the state before a tile are looked at and published as words; a ticket is taken.
        summary, words = (
            2 if kernel.name == "scan_vjp" or kernel.key[1] == "linear" else 3,
            SIZES[kernel_carry(kernel)] // 4,
        )
        assert code.opcodes["LDG.E.64.STRONG.GPU"] >= words * (summary + 1)
        assert code.opcodes["STG.E.64.STRONG.GPU"] >= words * (summary + 2)
        assert sum(count for op, count in code.opcodes.items() if op.startswith("ATOMG.E.ADD.STRONG.GPU")) == 1
        # Who waits naps between looks, and not for ever.
        assert any(op.startswith("NANOSLEEP") for op in code.opcodes)
        assert code.opcodes["BPT.TRAP"]
        assert 2 * kernel.threads * -(-code.registers // 8) * 8 <= 65536
    if kernel.name in ("lanes", "lanes_vjp"):
        steps = options["ahead"]
        numbers = sum(elements[operand] == "number" for operand in "ab")
        operands = 2 if kernel.name == "lanes" else 3 if kernel.key[1] == "linear" else 4
        operands -= numbers
        share = 0.6 if numbers or dtype == "float64" or options["cuts"] else 0.75
        assert code.loads >= share * steps * operands, "loads wait for each other"


def check_all(kernels, card, dtype, fills=()):
    """Look at kernels; those of the rules ``fills`` ask for as many bytes as a card needs to copy at its rate."""
    kernels = list(kernels)
    codes = together(tuple(devices.ptx(kernel, CARDS[card]) for kernel in kernels), card)
    for kernel, code in zip(kernels, codes, strict=True):
        check(kernel, code, dtype, card)
        few = dict(kernel.key[3]).get("is_fix_up")  # which is rare
        if kernel.key[1] in fills and code.in_flight and not few:
            assert table.row_of(code, kernel, "", dtype, card).enough is not False, kernel.name
    return zip(kernels, codes, strict=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_recurrences(dtype, card):
    found = itertools.product((FORGET, LINEAR), CASES)
    every = {kernel.key: kernel for family, case in found for kernel in kernels(DTYPES[dtype], family, case)}
    check_all(every.values(), card, dtype, fills=AVERAGES)


@pytest.mark.exhaustive
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_single_pass_scan(dtype, card):
    found = itertools.product((FORGET, LINEAR), SCANNED)
    every = [each for family, case in found for each in kernels(DTYPES[dtype], family, case)]
    assert [each.name for each in every] == 4 * ["scan", "series", "scan_vjp", "series_vjp"]
    assert all(each.target(CARDS[card])[1] >= 2 for each in every if each.name.startswith("scan"))
    check_all(every, card, dtype, fills=RULES)


@pytest.mark.exhaustive
@pytest.mark.parametrize("card", ["sm_75", "sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_series_that_begin_anew(dtype, card):
    """A byte of a flag is loaded beside each step's operands; what is made for neither knows of neither."""
    cuts = ["offsets"], ["resets"], ["offsets", "resets"]
    of_cuts = [(kernels(DTYPES[dtype], family, "lanes", cuts=own)) for family in (FORGET, LINEAR) for own in cuts]
    for kernel, code in check_all([each for found in of_cuts for each in found[:2]], card, dtype):
        options, flags = dict(kernel.key[3]), "resets" in dict(kernel.key[3])["cuts"]
        loads = sum(count for op, count in code.opcodes.items() if op.startswith("LDG") and ".U8" in op)
        assert flags * options["ahead"] <= loads <= flags * 2 * options["ahead"] + flags
        assert {"offsets", "resets"} <= {*kernel.parameters}
    for kernel in kernels(DTYPES[dtype], FORGET, "lanes"):
        assert not {"offsets", "resets"} & {*kernel.parameters}


@pytest.mark.exhaustive
@pytest.mark.parametrize("card", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_series_that_begin_anew_along_contiguous_time_and_in_tiles(dtype, card):
    found = itertools.product((FORGET, LINEAR), ["series", *SCANNED])
    every = {each.key: each for family, case in found for each in kernels(DTYPES[dtype], family, case, cuts=["resets"])}
    assert {each.name for each in every.values()} == {"scan", "series", "scan_vjp", "series_vjp"}
    check_all(every.values(), card, dtype)


@pytest.mark.sample(case=["lanes"])
@pytest.mark.parametrize("case", ["lanes", "series"])
def test_one_gate_for_all(case):
    """A Python number is passed by value, and its gradient added up on the way."""
    check_all(kernels(DTYPES["float32"], FORGET, case, total=True), "sm_90", "float32")


@pytest.mark.exhaustive
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pooling(dtype, card):
    """Every load of a batch of steps is on its way before the first is used."""
    for kernel, code in check_all(pooling(DTYPES[dtype], masked=True), card, dtype, fills=RULES):
        operands = 6 if kernel.name == "pool_vjp" else 4
        assert code.loads >= 0.8 * dict(kernel.key[3])["ahead"] * operands, "loads wait for each other"


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("gated", "packed", "cuts"),
    [(False, False, ()), (True, True, ()), (True, False, ("offsets",)), (True, False, ("resets",))],
)
def test_pooling_of_other_kinds(gated, packed, cuts):
    for kernel, code in check_all(pooling(DTYPES["float32"], gated, packed, cuts=cuts), "sm_90", "float32"):
        operands = (4 if kernel.name == "pool_vjp" else 2) + gated
        assert code.loads >= 0.8 * dict(kernel.key[3])["ahead"] * operands, "loads wait for each other"


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("dtype", "states", "batch", "card"),
    [
        *(("float32", 16, 2, card) for card in ("sm_75", "sm_80", "sm_90", "sm_120")),
        ("float32", 16, 32, "sm_90"),
        ("float64", 16, 2, "sm_90"),
        ("bfloat16", 16, 2, "sm_90"),
        ("float16", 256, 2, "sm_90"),
    ],
)
def test_selective_scan(dtype, states, batch, card):
    """Every load of a chunk of operands is on its way before the first is used."""
    for kernel, code in check_all(scanning(DTYPES[dtype], states, batch=batch), card, dtype):
        options = dict(kernel.key[3])
        steps, operands = options["chunk"] // options["lanes"], {"selective_vjp": 4}.get(kernel.name, 3)
        if SIZES[dtype] > 2:  # else the most bytes are in flight elsewhere
            assert code.loads >= steps * (operands - options.get("keeps", 0)), "loads wait for each other"


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("dtype", "states", "layout", "maps", "cuts"),
    [
        ("float32", 5, "bdl", "steps", ["offsets"]),
        ("float32", 128, "bld", "constant", ["offsets", "resets"]),
        ("float64", 256, "bdl", "constant", ["resets"]),
    ],
)
def test_selective_scan_of_other_kinds(dtype, states, layout, maps, cuts):
    check_all(scanning(DTYPES[dtype], states, layout, maps, cuts), "sm_90", dtype)


def test_one_text_for_all_cards():
    """From compute capability 10.0 on the compiler would make another, which nothing here has run or looked at."""
    kernel = kernels(DTYPES["float32"], FORGET, "lanes")[1]
    assert {kernel.target(card)[0] for card in CARDS.values()} == {(7, 5)}
    assert ".target sm_75" in kernel.ptx((12, 0))


def test_another_text_where_the_card_rounds_to_bfloat16():
    kernel = kernels(DTYPES["bfloat16"], FORGET, "lanes")[0]
    for card in [(7, 5), (8, 0)]:
        assert ("cvt.rn.bf16" in devices.ptx(kernel, card)) == (card >= (8, 0))
    assert ".target sm_80" in devices.ptx(kernel, (12, 0))


def test_launch_bounds_reach_the_assembler():
    """Why every kernel is compiled for the size it is launched with."""
    kernel = kernels(DTYPES["float32"], FORGET, "lanes")[0]
    ptx = devices.ptx(kernel)
    assert ".maxntid 128" in ptx
    assert ".minnctapersm 6" in ptx
