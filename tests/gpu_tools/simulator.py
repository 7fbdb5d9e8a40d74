"""Run kernels as the Python they are written in: every thread a coroutine, so that each line is seen.

`Driver` takes the place of `fastrecur._cuda.launch.driver`, as `devices.Driver` does, but interprets a kernel instead
of its PTX. Blocks and threads run in random order, some blocks at a time, and what is published to other blocks is seen
by them at a random later time. Reported are accesses outside of what arrays own and misaligned
ones, races in global and in shared memory, shuffles from lanes that take no part, warps that meet in different places,
and deadlocks. Local and shared memory begin as NaN, or as garbage where there is none.
"""

import bisect
import ctypes
import functools
import inspect
import random
import sys
import types

import devices
import greenlet
import ml_dtypes
import numpy as np

from fastrecur._cuda.kernels import (
    chunks,
    device,
    filters,
    lanes,
    levels,
    look_back,
    operands,
    pool,
    scan,
    selective,
    selective_back,
    series,
    summaries,
)  # fmt: skip
from fastrecur._steps import levels as level_steps, pooling, recurrence, sections, selective as selective_steps

CARRIES = {"f4": np.float32, "f8": np.float64, "c8": np.complex64, "c16": np.complex128}
RESIDENT = 3  # blocks that run at a time
# Python's numbers for float32: NumPy's would take three times as long.
WIDER = {np.float32: float, np.complex64: complex, np.complex128: np.clongdouble}


def fma(a, b, c):
    """Round once, or nearly: the sum is made one precision wider."""
    kind = type(c)
    if kind is np.float64:
        return kind(np.longdouble(a) * b + c)
    wide = WIDER[kind]
    return kind(wide(a) * wide(b) + wide(c))


def _bits(value):
    return value.view(f"u{value.itemsize}")


def _of_block(name):
    return lambda *arguments: getattr(Block.running, name)(*arguments)


# What `device`'s functions mean here.
MEANINGS = {
    **{name: _of_block(name) for name in ("thread", "block", "block_row", "block_threads", "barrier", "nap", "trap")},
    **{name: _of_block(name) for name in ("shuffle", "ballot")},
    "highest": lambda bits: int(bits).bit_length() - 1,
    "divide": lambda a, b: a // b,
    "narrow": lambda number: number,
    "anew": lambda value: value,
    "is_tagged": lambda value: bool(_bits(value) & 1),
    "tagged": lambda value, tag: (_bits(value) // 2 * 2 + tag).view(value.dtype),
    "is_null": lambda pointer: pointer.address == 0,
    "misalignment": lambda pointer: pointer.address % 16,
    "shift": lambda pointer, offset: pointer.shift(offset),
    "load": lambda pointer, offset, like: pointer.load(offset, like.dtype),
    "load_raw": lambda pointer, offset, like: pointer.load_raw(offset, like.dtype),
    "unpack": lambda pointer, raw, like: pointer.unpack(raw, like.dtype),
    "load_int": lambda pointer, offset: pointer.load_int(offset),
    "load_wide": lambda pointer, offset, like: pointer.load_wide(offset, like.dtype),
    "load_status": lambda pointer, offset, like: pointer.load_status(offset, like.dtype),
    "store": lambda pointer, offset, value: pointer.store(offset, value),
    "store_wide": lambda pointer, offset, values: pointer.store_wide(offset, values),
    "store_status": lambda pointer, offset, value: pointer.store_status(offset, value),
    "take_ticket": lambda pointer: pointer.take_ticket(),
}


def like_compiled_code(setattr):
    """Give the steps' stubs and `device` the meaning of a card; `setattr` is Python's own or monkeypatch's."""
    for name, meaning in MEANINGS.items():
        setattr(device, name, meaning)
    stubs = {"fma": fma, "select": lambda condition, yes, no: yes if condition else no, "all_finite": lambda _: False}
    stepping = level_steps, recurrence, pooling, sections, selective_steps
    kernels = chunks, filters, lanes, levels, look_back, pool, scan, selective, selective_back, series, summaries
    for module in (*stepping, *kernels):
        for name in stubs.keys() & vars(module).keys():
            setattr(module, name, stubs[name])


# ---- Memory ---------------------------------------------------------------------------------------------------------


class Memory:
    """What the threads of one launch may touch, and who has."""

    def __init__(self, arrays):
        ranges = sorted({(a.__array_interface__["data"][0], a.nbytes) for a in arrays})
        self.starts, self.ends = [start for start, _ in ranges], [start + size for start, size in ranges]
        self.wrote, self.read, self.words, self.unseen = {}, {}, {}, []
        self.loaded = self.stored = self.accesses = self.seen = 0
        self.thread = None

    def touch(self, address, size, part, align, writes):
        """Note an access to so many bytes, in parts of an element; raise if it is not allowed."""
        self.check(address, size, align)
        me, wrote, read = self.thread, self.wrote, self.read
        for place in range(address, address + size, part) if size > part else (address,):
            if place in self.words:
                raise RuntimeError(f"a race: {me} at {place:#x}, which is a word of all blocks")
            if wrote.get(place, me) is not me:
                raise RuntimeError(f"a race: {me} at {place:#x} after a write by {wrote[place]}")
            if not writes:
                read[place] = me
                continue
            if read.get(place, me) is not me:
                raise RuntimeError(f"a race: {me} writes {place:#x}, which {read[place]} has read")
            wrote[place] = me
        self.accesses += 1
        if writes:
            self.stored += size
        else:
            self.loaded += size

    def touch_word(self, address, size):
        """Note that words of all blocks stand there; raise if they may not."""
        self.check(address, size, size)
        for place in range(address, address + size, 4):
            if place in self.wrote or place in self.read:
                raise RuntimeError(f"a race: {self.thread} at {place:#x}, which is no word of all blocks")
            self.words.setdefault(place, None)

    def publish(self, address, word):
        """Let others see a word some time later."""
        self.touch_word(address, 8)
        if self.words[address] not in (None, word):
            raise RuntimeError(f"two contents of a word at {address:#x}")
        self.words[address] = word
        self.unseen.append((address, word))

    def show(self, draw):
        """Let some of what was published be seen, in any order."""
        while self.unseen and draw.random() < 0.7:
            address, word = self.unseen.pop(draw.randrange(len(self.unseen)))
            ctypes.c_uint64.from_address(address).value = word
            self.seen += 1

    def is_new(self, seen, words):
        """Return whether one of some words can be seen that could not when so many could."""
        return seen < self.seen and any(ctypes.c_uint64.from_address(word).value for word in words)

    def check(self, address, size, align):
        """Raise where an array's memory ends, and for addresses that are not aligned."""
        k = bisect.bisect_right(self.starts, address) - 1
        if k < 0 or address + size > self.ends[k]:
            raise RuntimeError(f"{size} bytes at {address:#x} are out of bounds for {self.thread}")
        if address % align:
            raise RuntimeError(f"{size} bytes at {address:#x} are misaligned for {self.thread}")


def _half(bits):
    return np.uint16(bits).view(np.float16)


def _bfloat16(bits):
    return np.uint16(bits).view(ml_dtypes.bfloat16)


# Element -> bytes of a part, parts, what reads them, and their type.
ELEMENTS = {
    "f2": (2, 1, ctypes.c_uint16, _half, np.float16),
    "bf2": (2, 1, ctypes.c_uint16, _bfloat16, ml_dtypes.bfloat16),
    "f4": (4, 1, ctypes.c_float, None, None), "f8": (8, 1, ctypes.c_double, None, None),
    "c8": (4, 2, ctypes.c_float, None, None), "c16": (8, 2, ctypes.c_double, None, None),
    "b1": (1, 1, ctypes.c_uint8, None, None),
    **{f"i{n}": (n, 1, getattr(ctypes, f"c_int{8 * n}"), None, None) for n in (1, 2, 4, 8)},
    **{f"u{n}": (n, 1, getattr(ctypes, f"c_uint{8 * n}"), None, None) for n in (1, 2, 4, 8)},
}  # fmt: skip


class Pointer:
    """An address, as `MEANINGS` ask it."""

    __slots__ = ("memory", "address", "part", "parts", "kind", "decode", "encode", "size")

    def __init__(self, memory, address, part, parts, kind, decode, encode):
        self.memory, self.address, self.part, self.parts, self.size = memory, address, part, parts, part * parts
        self.kind, self.decode, self.encode = kind, decode, encode

    def shift(self, offset):
        address = self.address + int(offset)
        return Pointer(self.memory, address, self.part, self.parts, self.kind, self.decode, self.encode)

    def get(self, address):
        number = self.kind.from_address(address).value
        if self.parts == 2:
            return complex(number, self.kind.from_address(address + self.part).value)
        return number if self.decode is None else self.decode(number)

    def put(self, address, value):
        if self.parts == 2:
            self.kind.from_address(address + self.part).value = value.imag
        value = value.real
        self.kind.from_address(address).value = int(self.encode(value).view(np.uint16)) if self.encode else value

    def load(self, offset, dtype):
        address = self.address + int(offset)
        self.memory.touch(address, self.size, self.part, self.part, False)
        return dtype.type(self.get(address))

    def load_raw(self, offset, dtype):
        if self.encode is None or np.dtype(dtype).kind == "c":
            return self.load(offset, dtype)
        address = self.address + int(offset)
        self.memory.touch(address, 2, 2, 2, False)
        return np.int32(self.kind.from_address(address).value)

    def unpack(self, raw, dtype):
        if self.encode is None:
            return raw if np.dtype(dtype).kind == "c" else dtype.type(raw)
        return raw if np.dtype(dtype).kind == "c" else dtype.type(self.decode(raw))

    def store(self, offset, value):
        address = self.address + int(offset)
        self.memory.touch(address, self.size, self.part, self.part, True)
        self.put(address, value)

    def load_int(self, offset):
        address = self.address + int(offset)
        self.memory.touch(address, self.size, self.part, self.part, False)
        return self.kind.from_address(address).value

    def load_wide(self, offset, dtype):
        address = self.address + int(offset)
        self.memory.touch(address, 16, self.part, 16, False)
        return tuple(dtype.type(self.get(address + k)) for k in range(0, 16, self.size))

    def store_wide(self, offset, values):
        address = self.address + int(offset)
        self.memory.touch(address, 16, self.part, 16, True)
        for k, value in zip(range(0, 16, self.size), values, strict=True):
            self.put(address + k, value)

    def store_status(self, offset, value):
        words = np.atleast_1d(value).view(np.uint32)
        for k, word in enumerate(words):
            self.memory.publish(self.address + int(offset) + 8 * k, 1 << 32 | int(word))

    def load_status(self, offset, dtype):
        address, words = self.address + int(offset), []
        for place in range(address, address + 2 * dtype.itemsize, 8):
            self.memory.touch_word(place, 8)
            words.append(ctypes.c_uint64.from_address(place).value)
            if not words[-1]:
                self.memory.thread.missed.append(place)
        bits = np.array([word & 0xFFFFFFFF for word in words], np.uint32)
        return all(word >> 32 for word in words), bits.view(dtype)[0]

    def take_ticket(self):
        self.memory.touch_word(self.address, 4)
        place = ctypes.c_int32.from_address(self.address)
        place.value += 1
        return place.value - 1


class Number:
    """An operand that is a number: it stands at all addresses, and at none that is aligned."""

    address = 1

    def __init__(self, value):
        self.value = value

    def shift(self, offset):
        return self

    def load(self, offset, dtype):
        return self.value

    load_raw = load

    def unpack(self, raw, dtype):
        return raw


@functools.cache
def _poison(count, kind):
    return np.full(count, 0x5EEDBAD if np.issubdtype(kind, np.integer) else np.nan, kind)


def poisoned(count, kind):
    """Return what an array is before anything is written to it."""
    return _poison(count, kind).copy()


class Shared:
    """An array of a block's; ``epoch`` counts its barriers."""

    def __init__(self, block, count, kind):
        self.block, self.values, self.wrote, self.read = block, poisoned(count, kind), {}, {}

    def check(self, index, writes):
        me, epoch = self.block.current, self.block.epoch
        if not 0 <= index < len(self.values):
            raise RuntimeError(f"shared memory: {index} is out of bounds for {me}")
        for before in (self.wrote, self.read)[: 1 + writes]:
            who, when = before.get(index, (me, epoch))
            if who is not me and when == epoch:
                raise RuntimeError(f"a race in shared memory: {me} and {who} at {index} with no barrier between")
        (self.wrote if writes else self.read)[index] = me, epoch

    def __getitem__(self, index):
        self.check(index, False)
        return self.values[index]

    def __setitem__(self, index, value):
        self.check(index, True)
        self.values[index] = value


# ---- Threads --------------------------------------------------------------------------------------------------------


_idle = []  # coroutines that have run a thread to its end: each has a stack of its own, which takes time to make


def _run_threads():
    """What a coroutine does: run one thread after another."""
    loop = greenlet.getcurrent().parent
    with np.errstate(all="ignore"):
        while True:
            thread = loop.switch()
            thread.block.function()
            thread.alive = False
            _idle.append(thread.coroutine)
            del thread  # and the memory that it knows of


class Thread:
    """A thread, which runs until it needs others."""

    def __init__(self, block, number):
        self.block, self.number, self.shared, self.alive = block, number, 0, True
        self.wants = self.answer = None
        self.missed = []  # words that it has looked for in vain since it last napped
        if not _idle:
            _idle.append(greenlet.greenlet(_run_threads))
            _idle[0].switch()
        self.coroutine = _idle.pop()

    def __repr__(self):
        return f"thread {self.number} of block {self.block.at}"


class Block:
    """Runs a block's threads: what `MEANINGS` ask, and the part of numba.cuda that kernels allocate by."""

    running = None

    def __init__(self, memory, draw):
        self.memory, self.draw = memory, draw
        self.in_any_order = lambda _: draw.random()
        self.local = types.SimpleNamespace(array=poisoned)
        self.shared = types.SimpleNamespace(array=self.shared_array)
        self.current = None

    def start(self, function, arguments, at, threads):
        """Run one block to its end, which pauses where its threads have come as far as they can."""
        self.at, self.epoch, self.arrays, memory = at, 0, [], self.memory
        self.count = threads
        self.function = functools.partial(function, *arguments)
        self.threads = [Thread(self, k) for k in range(threads)]
        self.loop = greenlet.getcurrent()
        ready = list(self.threads)
        while ready or any(each.alive and each.wants[0] == "nap" for each in self.threads):
            ready.sort(key=self.in_any_order)
            yield
            Block.running = self
            for each in ready:
                self.current = memory.thread = each
                each.coroutine.switch(each)
            ready = self.meet()
        if any(each.alive for each in self.threads):
            waiting = {each.wants[0] for each in self.threads if each.alive}
            raise RuntimeError(f"a deadlock in block {at}: threads wait at {waiting}")

    def meet(self):
        """Let those go on whose partners have all arrived; return them."""
        alive = [each for each in self.threads if each.alive]
        if alive and all(each.wants[0] == "barrier" for each in alive):
            self.epoch += 1
            return alive
        # Who naps need not look again while nothing new is to be seen, but now and then does.
        naps = [each for each in alive if each.wants[0] == "nap"]
        ready = [each for each in naps if self.memory.is_new(*each.wants[2]) or self.draw.random() < 0.05]
        for first in range(0, self.count, 32):
            warp = [each for each in self.threads[first : first + 32] if each.alive]
            kinds = {each.wants[0] for each in warp}
            if len(kinds) != 1 or kinds <= {"barrier", "nap"}:
                continue
            if len({each.wants[1] for each in warp}) > 1:
                raise RuntimeError(f"a warp of block {self.at} meets in different places")
            brought = {each.number - first: each.wants[2] for each in warp}
            if kinds == {"shuffle"}:
                for each in warp:
                    if each.wants[3] not in brought:
                        raise RuntimeError(f"{each} shuffles from lane {each.wants[3]}, which takes no part")
                    each.answer = brought[each.wants[3]]
            else:
                votes = sum(1 << lane for lane, vote in brought.items() if vote)
                for each in warp:
                    each.answer = votes
            ready += warp
        return ready

    def wait(self, kind, value=None, lane=None):
        """Leave the thread until others have come as far; return what they brought."""
        me, frame = self.current, sys._getframe(3)
        me.wants = kind, (frame.f_code, frame.f_lasti), value, lane
        self.loop.switch()
        return me.answer

    def shared_array(self, count, kind):
        """Return the array that all threads of the block get at the same place."""
        me = self.current
        if me.shared == len(self.arrays):
            self.arrays.append(Shared(self, count, kind))
        me.shared += 1
        return self.arrays[me.shared - 1]

    # What `MEANINGS` ask.

    def thread(self):
        return self.current.number

    def block(self):
        return self.at[0]

    def block_row(self):
        return self.at[1]

    def block_threads(self):
        return self.count

    def barrier(self):
        self.wait("barrier")

    def nap(self):
        missed, self.current.missed = self.current.missed, []
        self.wait("nap", (self.memory.seen, missed))

    def trap(self):
        raise RuntimeError(f"a trap: {self.current}")

    def shuffle(self, value, lane):
        return self.wait("shuffle", value, int(lane))

    def ballot(self, condition):
        return self.wait("ballot", bool(condition))


class Driver(devices.Driver):
    """What launches kernels in the interpreter."""

    def run(self, kernel, grid, threads, arguments, memory):
        """Interpret a kernel."""
        draw = random.Random(self.seed)
        memory = Memory(memory)
        plain, flat = [], iter(arguments)
        for kind in kernel.signature:
            if kind.endswith("*"):
                plain.append(Pointer(memory, next(flat), *ELEMENTS[kind[:-1]]))
            elif kind == "i8[3]":
                plain.append(tuple(next(flat) for _ in range(3)))
            elif kind in CARRIES:
                parts = [next(flat) for _ in range(1 + kind.startswith("c"))]
                plain.append(Number(CARRIES[kind](complex(*parts) if len(parts) == 2 else parts[0])))
            else:
                plain.append(next(flat))
        plain = dict(zip(kernel.parameters, plain, strict=True))
        given = [
            operands.assemble(name, plain, lambda group, parts: group(*parts))
            for name in inspect.signature(kernel.function(None)).parameters
        ]
        places = [(x, y) for x in range(grid[0]) for y in range(grid[1])]
        draw.shuffle(places)
        running, helpers = [], len(device.HELPERS)
        while places or running:
            if places and len(running) < RESIDENT:
                block = Block(memory, draw)
                running.append(block.start(kernel.function(block), given, places.pop(), threads))
                del device.HELPERS[helpers:]
                for made in (look_back.opener, look_back.starter):
                    made.cache_clear()  # of functions for a block alone
            k = draw.randrange(len(running))
            if next(running[k], self) is self:
                del running[k]
            memory.show(draw)
        while memory.unseen:
            memory.show(draw)
        return memory
