"""Write the PTX of every kernel, without names that its compiler chose; compare it with what was written before.

A change that only moves or renames must leave every text as it was: run it in two checkouts with one numba-cuda.

    python tests/gpu_tools/ptx_texts.py FOLDER
    python tests/gpu_tools/ptx_texts.py FOLDER --against EARLIER  # exits with 1 if texts differ
"""

import argparse
import pathlib
import re
import sys
from collections import Counter

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import devices  # noqa: E402
import problems  # noqa: E402
from tqdm import tqdm  # noqa: E402

from fastrecur._cuda import launch  # noqa: E402

CAPABILITIES = {(7, 5): "", (9, 0): ", 9.0"}  # without and with the card's own rounding to bfloat16


def plain(ptx):
    """A kernel's PTX with registers, labels and shared memory numbered as they come, and no comments."""
    text = re.sub(r"//.*|^\s*\.loc.*$|.*08NumbaEnv.*", "", ptx, flags=re.MULTILINE).replace(launch.entry(ptx), "kernel")
    found: dict[str, str] = {}

    def numbered(match):
        kind, number = match.groups()
        return found.setdefault(match[0], f"{kind}{sum(k.startswith(kind) for k in found)}") if number else match[0]

    text = re.sub(r"^\s*\.reg.*\n", "", text, flags=re.MULTILINE)
    # Arrays in shared memory come in an order of their names, which count what was compiled before.
    shared = r"^.*\.shared \.align.*\n"
    arrays, text = re.findall(shared, text, re.MULTILINE), re.sub(shared, "", text, flags=re.MULTILINE)
    text = re.sub(r"(%[a-z]+|\$L_[_A-Za-z]+|_cudapy_smem_)(\d+)", numbered, text)
    text += "\n" + "".join(sorted(re.sub(r"(_cudapy_smem_)(\d+)", numbered, each) for each in arrays))
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"


def counts(text):
    """How many instructions there are of each kind that computes with floats, moves data, or meets other threads.

    Comparisons count as one kind: what is asked may be turned round, and so may who is chosen.
    """
    kinds = r"^(?:@!?%\w+ )?((?:\w+\.)*?(?:f16|f32|f64)|(?:ld|st|atom|shfl|vote|bar)[\w.:]*)"
    found = re.findall(kinds, re.sub(r"setp\.\w+", "setp", text), re.MULTILINE)
    return Counter(kind for kind in found if not kind.startswith("ld.param"))


def difference(before, now):
    """How a text is different."""
    lines = f"{before.count(chr(10))} lines, now {now.count(chr(10))}"
    more = {kind: (n, counts(now)[kind]) for kind, n in counts(before).items() if counts(now)[kind] != n}
    more |= {kind: (0, n) for kind, n in counts(now).items() if kind not in counts(before)}
    return f"{lines}; " + (f"of floats and memory {more}" if more else "floats, memory and meetings are the same")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--against", type=pathlib.Path, help="the folder of an earlier run")
    parser.add_argument("--kernels", nargs="+", help="names that texts begin with; all unless given")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    differing, same = 0, 0
    for kernel, recurrence, dtype in tqdm(list(problems.all_kernels()), file=sys.stderr):
        options = dict(kernel.key[3])
        for capability, of in CAPABILITIES.items():
            if of and kernel.target(capability)[0] == kernel.target((7, 5))[0]:
                continue
            across = f", {options['across']} across" if "across" in options else ""
            kind = ", fix-up" * bool(options.get("is_fix_up")) + ", keeps" * bool(options.get("keeps"))
            name = f"{problems.label(kernel)}{across}{kind}, {recurrence}, {dtype}{of}.ptx"
            if arguments.kernels and not name.startswith(tuple(arguments.kernels)):
                continue
            text = plain(devices.ptx(kernel, capability))
            (arguments.folder / name).write_text(text)
            if arguments.against and (arguments.against / name).exists():
                before = plain((arguments.against / name).read_text())
                same += text == before
                differing += text != before
                if text != before:
                    print(f"{name}: {difference(before, text)}", flush=True)
    print(f"{same} texts are the same, {differing} differ" if arguments.against else "written")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
