"""What stands in an object file (ELF, 64 bits): what it asks of who loads it, and one that does nothing."""

import struct
from typing import NamedTuple

from llvmlite import binding

# By machine, the relocations, by ELF's numbers, of what may be loaded anywhere: addresses and distances of 64 bits; of
# ARM also 16 bits each of an address of 64 (MOVW_UABS), distances of 32 bits from tables for exceptions, and what
# LLVM's loader writes stubs and a table of addresses (GOT) for, beside the code.
ANYWHERE = {"x86_64": {1, 24}, "aarch64": {257, 260, 261, 282, 283, 311, 312, *range(263, 271)}}
_SYMBOLS, _RELOCATIONS = 2, 4  # types of sections
_UNDEFINED = 0  # the section of a symbol that is elsewhere


class Section(NamedTuple):
    """A section: its type and flags, where its bytes stand, the sections that it refers to, and its items' size."""

    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    item: int


def sections(code: bytes) -> list[Section]:
    """Return the sections of an object file."""
    (start,), (size, count) = struct.unpack_from("<Q", code, 40), struct.unpack_from("<HH", code, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", code, start + size * k) for k in range(count)]
    return [Section(kind, flags, at, n, link, info, item) for _, kind, flags, _, at, n, link, info, _, item in rows]


def undefined(code: bytes) -> set[str]:
    """Return the names of functions and data that stand elsewhere."""
    found, all_sections = set(), sections(code)
    for section in all_sections:
        if section.kind == _SYMBOLS:
            names = all_sections[section.link].offset
            for at in range(section.offset + section.item, section.offset + section.size, section.item):
                name, _, _, where = struct.unpack_from("<IBBH", code, at)
                if where == _UNDEFINED:
                    found.add(code[names + name : code.index(b"\0", names + name)].decode())
    return found


def relocations(code: bytes) -> set[int]:
    """Return the kinds of addresses that are filled in when a file is loaded, but for those of debuggers' sections."""
    all_sections = sections(code)
    used = [s for s in all_sections if s.kind == _RELOCATIONS and all_sections[s.info].flags & 2]
    return {
        struct.unpack_from("<Q", code, at + 8)[0] & 0xFFFFFFFF
        for section in used
        for at in range(section.offset, section.offset + section.size, section.item)
    }


def of_nothing(symbol: str) -> bytes:
    """Return the code of a kernel, for this machine, that does nothing."""
    module = binding.parse_assembly(f"define i32 @{symbol}() {{ ret i32 0 }}")
    module.triple = binding.get_process_triple()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    code: bytes = binding.Target.from_triple(module.triple).create_target_machine().emit_object(module)
    return code
