"""The example of a language model: killed at any moment it goes on to the same losses; several processes train it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "language_model.py"
SMALL = [
    "--hidden", "16", "--embedding", "8", "--layers", "2", "--batch", "4", "--bptt", "20", "--epochs", "2",
    "--every", "2", "--patience", "2", "--rate", "0.03", "--sample", "20",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of three small texts in PTB's layout."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    for part, count in {"train": 260, "valid": 30, "test": 30}.items():
        lines = [" ".join(draw.choice("abcde") * draw.randrange(1, 4) for _ in range(8)) for _ in range(count)]
        (folder / f"ptb.{part}.txt").write_text("".join(line + "\n" for line in lines))
    return folder


def begin(folder, texts, *arguments, launcher=()):
    """Start training in `folder`."""
    command = [sys.executable, *launcher, str(SCRIPT), "--data", str(texts), "--level", "word", *SMALL, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    output, errors = process.communicate(timeout=300)
    lines = [line for line in errors.decode().splitlines() if "word/s" not in line]  # not the progress
    assert process.returncode == 0, "\n".join(lines)
    return output.decode()


def checkpoint(folder):
    return torch.load(folder / "language_model.pt")


def losses(whole):
    return [(step, loss, valid) for step, _, loss, valid in whole["curve"]]


def same(one, other):
    """Return whether two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def check_same(one, other):
    assert losses(one) == losses(other)
    for name in one.keys() - {"seconds", "averaged_from", "curve"}:
        assert same(one[name], other[name]), name


@pytest.mark.exhaustive
@pytest.mark.parametrize("model, times", [("qrnn", 3), ("lstm", 1)])
def test_killed_at_any_moment_it_goes_on_to_the_same_losses(tmp_path, texts, model, times):
    finish(begin(tmp_path / "whole", texts, "--model", model))
    expected = checkpoint(tmp_path / "whole")
    assert expected["averaged_from"] is not None  # so that averages are carried on too

    draw, folder, step, kills = random.Random(model), tmp_path / "killed", 0, 0
    while True:
        process = begin(folder, texts, "--model", model, "--resume")
        path = folder / "language_model.pt"
        before = path.stat().st_mtime_ns if path.exists() else 0
        while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05) if kills < times else 0)
        if kills == times or process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        reached = checkpoint(folder)["step"]  # loads whole
        assert reached > step
        step = reached
    finish(process)
    assert kills == times
    check_same(checkpoint(folder), expected)


# Stops itself for good while it writes a checkpoint: in the middle of the file, and with the file not yet in its place.
KILLED_WRITING = """
import os, runpy, signal, sys, torch
moment, *sys.argv = sys.argv[1:]
save, replace, count = torch.save, os.replace, 0
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def half(whole, file):
    global count
    count += 1
    if count < 3:
        return save(whole, file)
    file.write(b"half a file")
    file.flush()
    die()
def late(source, target):
    global count
    count += str(target).endswith("language_model.pt")
    die() if count == 3 else replace(source, target)
if moment == "half":
    torch.save = half
else:
    os.replace = late
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("moment", ["half", "late"])
def test_killed_while_it_writes_the_checkpoint_before_is_whole(tmp_path, texts, moment):
    script = tmp_path / "script.py"
    script.write_text(KILLED_WRITING)
    process = begin(tmp_path / "killed", texts, launcher=[str(script), moment])
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    whole = checkpoint(tmp_path / "killed")
    assert whole["step"] == 4 and len(whole["curve"]) == 2


@pytest.mark.exhaustive
def test_two_processes_train_as_one_does(tmp_path, texts):
    still = [part for name in ("word", "input", "hidden", "output", "weight") for part in (f"--{name}-drop", "0")]
    finish(begin(tmp_path / "one", texts, *still))
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    printed = finish(begin(tmp_path / "two", texts, *still, launcher=run))
    assert printed.count("Saved") == 1
    one, two = (torch.tensor(losses(checkpoint(tmp_path / name))) for name in ("one", "two"))
    torch.testing.assert_close(two[:, 2], one[:, 2], rtol=1e-3, atol=0)  # each validates its lanes
