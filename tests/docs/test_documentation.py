"""The documentation is whole: public names have their places, code is run, links lead somewhere."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import dask.array
import numpy as np
import pytest
import zarr
from compare import assert_close_lazy

from fastrecur.smoothing import ewm_mean

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MADE = {"_build", "_templates", "gallery", "generated"}  # folders of what a build writes, and of its templates
REPORTS = [path for path in sorted(DOCS.rglob("*.txt")) if not MADE.intersection(path.parts)]
PAGES = [path for path in sorted(DOCS.rglob("*.rst")) if not MADE.intersection(path.parts)]
MARKDOWN = [ROOT / name for name in ("README.md", "CHANGELOG.md", "examples/data/README.md", "tests/gpu/README.md")]
MARKDOWN += [*sorted((ROOT / ".github").glob("*.md")), DOCS / "release.md"]

MODULES = [
    "fastrecur",
    "fastrecur.filters",
    "fastrecur.reference",
    "fastrecur.returns",
    "fastrecur.smoothing",
    "fastrecur.torch",
    "fastrecur.torch.distributed",
    "fastrecur.torch.mamba",
]

# Public methods without an entry of their own.
NO_ENTRY = {"extra_repr": "torch's hook for what a module prints"}

STORED = "howto/beyond_one_machine.rst", 'x = da.from_zarr("readings.zarr")'
# Blocks of Python that are not run: page and first line.
NOT_RUN = {
    ("howto/gpu.rst", "import cupy, fastrecur"): "needs a GPU",
    ("howto/gpu.rst", "h = fastrecur.forget_mult(f, x)"): "needs a GPU",
    ("howto/torch.rst", "from fastrecur.torch.onnx import translations"): "tests/torch/test_onnx.py does the same",
    STORED: "test_what_is_stored runs it",
    ("howto/mamba.rst", "from transformers import MambaForCausalLM"): "loads weights",
    (
        "howto/sequence_parallel.rst",
        'mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("data", "time"))',
    ): "needs eight GPUs",
}
# What is in a block without Python: commands for a shell.
COMMAND = re.compile(r"(\S*/)?(pip|python3?|export|ruff|mypy|\.ci/run|git|cd)\b|#|\.ci/run")
# Languages that are not run.
PLAIN = {"none", "text", "bibtex"}


# ---- Every public name is in the reference ---------------------------------------------------------------------------


def documented():
    """Return the full names that the pages of the reference have entries for."""
    names = set()
    for page in sorted((DOCS / "reference").glob("*.rst")):
        module, owner, summary = "", "", False
        for line in page.read_text().splitlines():
            directive = re.match(r"(\s*)\.\. (\w+)::(?: (\S+))?", line)
            members = re.match(r"\s+:members: (.+)", line)
            if directive:
                indent, kind, name = directive.groups()
                if kind in ("module", "currentmodule"):
                    module = name
                elif kind == "automodule":
                    names.add(name)
                elif kind == "autosummary":
                    summary = True
                    continue
                elif kind.startswith("auto") or kind == "data":
                    full = f"{owner}.{name}" if indent else f"{module}.{name}"
                    names.add(full)
                    if not indent:
                        owner = full
            elif members:
                names |= {f"{owner}.{name.strip()}" for name in members[1].split(",")}
            elif summary and (entry := re.fullmatch(r" {3}(\w+)", line)):
                names |= on_a_page(module, entry[1])
            elif line[:1].strip():
                summary = False
    return names


def on_a_page(module, name):
    """Return the full names that a page of a function or a class has: of a class, what has a docstring too."""
    full, value = f"{module}.{name}", getattr(importlib.import_module(module), name)
    members = vars(value) if inspect.isclass(value) else {}
    return {full, *(f"{full}.{key}" for key, member in members.items() if getattr(member, "__doc__", None))}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module):
    there = documented()
    module = importlib.import_module(module)
    wanted = set()
    for name in module.__all__:
        wanted.add(f"{module.__name__}.{name}")
        public = getattr(module, name)
        if inspect.isclass(public) and not issubclass(public, tuple):
            own = {m: value for m, value in vars(public).items() if not m.startswith("_") and m not in NO_ENTRY}
            wanted |= {
                f"{module.__name__}.{name}.{m}"
                for m, value in own.items()
                if callable(value) or type(value) is property
            }
    assert wanted <= there, f"not in docs/reference: {sorted(wanted - there)}"


# ---- Every block of code is run --------------------------------------------------------------------------------------


def indented(lines, k):
    """Return the lines of the block that is indented more than line k and follows it, without that indentation."""
    depth = len(lines[k]) - len(lines[k].lstrip())
    block = []
    for line in lines[k + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= depth:
            break
        block.append(line)
    options = [line for line in block if not re.match(r"\s+:\w[\w-]*:", line)]
    return [line.strip() for line in options if line.strip()]


def blocks(path):
    """Yield ``(language, lines)`` of the blocks that Sphinx shows and does not run; '' for a plain one."""
    lines = path.read_text().splitlines()
    if path.suffix == ".md":
        fence = None
        for k, line in enumerate(lines):
            if line.strip().startswith("```"):
                if fence is None:
                    fence = k
                else:
                    yield lines[fence].strip("` "), [inner.strip() for inner in lines[fence + 1 : k] if inner.strip()]
                    fence = None
        for k, line in enumerate(lines):
            if line.startswith("    ") and not lines[k - 1].strip() and fence is None:
                yield "", [line.strip()]
        return
    for k, line in enumerate(lines):
        directive = re.match(r"\s*\.\. (?:code-block|code|sourcecode|parsed-literal)::\s*(\S*)", line)
        if directive:
            yield directive[1] or "", indented(lines, k)
        elif line.rstrip().endswith("::") and not line.strip().startswith(".."):
            yield "", indented(lines, k)


@pytest.mark.parametrize("path", PAGES + MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_block_of_code_is_run(path):
    is_readme = path == ROOT / "README.md"  # pytest runs it
    for language, lines in blocks(path):
        if language in PLAIN or language.startswith("{"):
            continue
        if language == "python" and is_readme:
            assert lines[0].startswith(">>>"), f"not run: {lines[0]}"
            continue
        if path.is_relative_to(DOCS) and (path.relative_to(DOCS).as_posix(), lines[0]) in NOT_RUN:
            continue
        assert language == "" and all(COMMAND.match(line) for line in lines), f"not run: {lines[0]}"


# Characters of code that the site shows beside both sidebars in a window of 1280 pixels: docs/formulas.py measures it.
COLUMNS = 88
EXAMPLE = re.compile(r"^ *((?:>>>|\.\.\.) .*)$", re.MULTILINE)


def test_code_is_not_cut():
    """In pages and in docstrings."""
    shown = {path: EXAMPLE.findall(path.read_text()) for path in [*PAGES, *(ROOT / "fastrecur").rglob("*.py")]}
    for path in PAGES:
        shown[path] += [line for language, lines in blocks(path) if language not in PLAIN for line in lines]
    assert not [(path.name, line) for path, lines in shown.items() for line in lines if len(line) > COLUMNS]


def test_what_is_stored(tmp_path, monkeypatch):
    """The block that reads and writes files, on a series of ours."""
    monkeypatch.chdir(tmp_path)
    series = np.random.default_rng(0).standard_normal(1000)
    zarr.create_array("readings.zarr", data=series, chunks=(100,))
    page, first = STORED
    (lines,) = (lines for _, lines in blocks(DOCS / page) if lines and lines[0] == first)
    names = {"da": dask.array, "dask": dask, "zarr": zarr, "ewm_mean": ewm_mean}
    exec("\n".join(lines), names)
    assert_close_lazy(dask.array.from_zarr("smoothed.zarr"), ewm_mean(series, halflife=1e5))


def test_exceptions_are_used():
    there = {(path.relative_to(DOCS).as_posix(), lines[0]) for path in PAGES for _, lines in blocks(path)}
    assert NOT_RUN.keys() <= there


def test_no_line_is_skipped():
    assert not [path for path in PAGES + MARKDOWN[:1] if "+SKIP" in path.read_text()]


# ---- Every link leads somewhere (Sphinx looks at those within its pages) ---------------------------------------------


def test_links_of_markdown():
    links = [(path, target) for path in MARKDOWN for target in re.findall(r"\]\(([^)\s#]+)", path.read_text())]
    assert not [link for link in links if "://" not in link[1] and not (link[0].parent / link[1]).exists()]


def test_files_that_are_named_or_run_exist():
    named = r"\b((?:examples|tests|docs|fastrecur)/[\w./-]*\w\.(?:py|rst|md|csv|txt|png|c))\b"
    forms = named, r"\bpython3? ((?:\w+/)+\w+\.py)\b"
    found = {(path, name) for path in PAGES + MARKDOWN for form in forms for name in re.findall(form, path.read_text())}
    assert not [pair for pair in found if not (ROOT / pair[1]).exists()]


# ---- Figures ---------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_reports(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    figures = importlib.import_module("figures")
    for (path, mark), made in figures.TEXTS.items():
        assert figures.written(path, made(), mark) == path.read_text(), "run `python docs/figures.py`"


def test_a_model_of_mamba_is_shown_with_its_width(monkeypatch, tmp_path):
    """README has the widest one that was measured, as narrow ones flatter; the page about Mamba has each."""
    monkeypatch.syspath_prepend(str(DOCS))
    figures = importlib.import_module("figures")
    for path in DOCS.glob("*.txt"):
        (tmp_path / path.name).write_text(path.read_text())
    report = tmp_path / "benchmarks_mamba.txt"
    head = "".join(report.read_text().splitlines(keepends=True)[:3])
    models = ((256, (8.2, 24.3, 0.9)), (768, (4.6, 13.1, 1.0)))
    rows = [(f"model, {width} features, {what}", times) for width, own in models
            for what, times in zip(figures.MODEL, own, strict=True)]  # fmt: skip
    lines = (f"  {what}   20.71 ms   {times} times as fast as  transformers' own   169.65 ms\n" for what, times in rows)
    report.write_text(head + "".join(lines))
    monkeypatch.setattr(figures, "DOCS", tmp_path)
    before, *_, times = list(figures.pairs())[-1]
    assert "768 features" in before
    assert times == "4.6; training 13"
    shown = " ".join(figures.mamba_page())
    assert "of 256 features, 8.2 forward, 24 in training, 0.9 in decoding" in shown
    assert "of 768 features, 4.6 forward, 13 in training, 1 in decoding" in shown


def test_reports_are_shown_without_targets(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    reports = importlib.import_module("reports")
    for path in sorted(DOCS.glob("*.txt")):
        shown = reports.for_readers(path.read_text())
        assert not re.search(r"\b(?:limit|goal)\b", shown), path.name
        assert len(shown.split("\n")) == len(path.read_text().split("\n"))


def test_reports_speak_of_limits_and_goals():
    """Not of what the project must, or of what it missed."""
    assert not [path for path in REPORTS if re.search(r"\b(?:must|required|aim|missed)\b", path.read_text())]


def test_what_a_person_must_fill_in_is_listed():
    """Addresses and names that are missing are marked, and docs/release.md names each file."""
    listed = (DOCS / "release.md").read_text()
    files = [*(ROOT / ".github").rglob("*.*"), *(DOCS / "paper").iterdir(), ROOT / "CITATION.cff", ROOT / "setup.cfg"]
    marked = {path.relative_to(ROOT).as_posix() for path in files if "TO FILL IN" in path.read_text()}
    assert marked
    assert not {name for name in marked if f"`{name}`" not in listed}


def test_links_that_need_an_address_wait_for_it(monkeypatch, tmp_path):
    """The site has a link to edit a page, and a menu of versions, as soon as a person fills the addresses in."""
    monkeypatch.syspath_prepend(str(DOCS))
    addresses = importlib.import_module("addresses")
    assert addresses.options({}, "0.1.0") == ("", {}, {})
    setup, versions = tmp_path / "setup.cfg", tmp_path / "versions.json"
    setup.write_text("[metadata]\nproject_urls =\n Source = https://a.example/b/\n Documentation = https://c.example\n")
    base, context, theme = addresses.options(addresses.read(setup), "0.1.0", versions)
    assert base == "https://c.example"
    assert context["edit_page_url_template"] == "https://a.example/b/edit/main/docs/{{ file_name }}"
    assert theme["use_edit_page_button"]
    assert "switcher" not in theme
    versions.write_text("[]")
    theme = addresses.options(addresses.read(setup), "0.1.0", versions)[-1]
    assert theme["switcher"] == {"json_url": "https://c.example/_static/versions.json", "version_match": "0.1.0"}
    assert set(addresses.read()) <= {"Source", "Documentation", "Changelog", "Issues"}


# ---- The gallery -----------------------------------------------------------------------------------------------------


def test_every_example_is_in_the_gallery_and_needs_no_other(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    gallery = importlib.import_module("make_gallery")
    examples = {path.stem for path in gallery.EXAMPLES.glob("*.py")}
    assert examples == set(gallery.ALL)
    for name in examples:
        nodes = ast.walk(ast.parse((gallery.EXAMPLES / f"{name}.py").read_text()))
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not imported & examples, name
        assert not gallery.ALL[name].more or (DOCS / f"{gallery.ALL[name].more}.rst").exists(), name
        assert gallery.picture_of(name) == f"/_static/{gallery.stored(name).name}"
        # Each says where and when it was measured: its report, or else its page.
        dated = re.compile(r"^20\d\d-\d\d-\d\d", re.MULTILINE)
        assert gallery.ALL[name].measured or dated.search(gallery.report_of(name).read_text()), name


def test_the_gallery_shows_one_panel_of_a_picture(monkeypatch):
    """Whole pictures of several panels were too small to read. No cut goes through a panel: its edges are white."""
    monkeypatch.syspath_prepend(str(DOCS))
    gallery = importlib.import_module("make_gallery")
    for name, example in gallery.ALL.items():
        pixels = gallery.panel_of(name, example.panel)[..., :3]
        for cut, edge in zip(example.panel, (pixels[:, 0], pixels[0], pixels[:, -1], pixels[-1]), strict=True):
            assert cut in (0, 1) or edge.min() > 0.99, f"{name}: a cut at {cut}"


def test_a_missing_picture_fails_the_build(monkeypatch, tmp_path):
    """A page showed the logo as its result."""
    monkeypatch.syspath_prepend(str(DOCS))
    gallery = importlib.import_module("make_gallery")
    monkeypatch.setattr(gallery, "STORED", tmp_path)
    with pytest.raises(SystemExit, match="streaming.png is missing: run python docs/make_gallery.py --only streaming"):
        gallery.picture_of("streaming")


# ---- Vocabulary: docs/glossary.rst has the terms ---------------------------------------------------------------------

# Words that a user should not meet, as patterns, and what to write.
REPLACED = {
    r"lanes?": "series; channel in networks",
    r"walk(?:s|ed|ing)?": "scan, run",
    r"travel(?:s|led)?": "scan direction",
    r"stretch(?:es)?": "shard, chunk, segment",
    r"pieces?": "chunk, part",
    r"cards?": "GPU",
    r"letters?": "character",
    r"octets?": "transpose8",
    r"panels?": "packed",
    r"past the cache": "non-temporal store",
    r"at hand": "available",
    r"nearer end": "compensated step",
    r"put down": "store",
    r"by turns": "alternately",
    r"in play": "involved",
    r"as ever": "unchanged",
    r"but for": "except for",
    r"(?:is|are) wanted": "requires",
    r"stands?|stood": "is",
    r"(?:must reach|their aim|must and aim)": "a measured figure",
    r"neighbours?|behaviours?|colours?|centres?|learnt": "American spelling",
    r"(?:normal|general|material|initial|quant|summar)is(?:e|es|ed|ation)": "American spelling",
}
OLD_WORD = re.compile(rf"\b(?:{'|'.join(REPLACED)})\b", re.IGNORECASE)

# A text, and a word with another meaning in it.
ALLOWED = {
    ("examples/speakers.py", "letters"),  # the name of a journal
    ("examples/data/README.md", "letters"),
    ("examples/learned_smoothing.py", "walk"),  # a random walk
    ("examples/learned_smoothing.py", "walks"),
}


def public_docstrings(name):
    """Return the docstrings of a module's public names and of their public methods."""
    module = importlib.import_module(name)
    docs = [module.__doc__]
    for public in module.__all__:
        value = getattr(module, public)
        docs.append(getattr(value, "__doc__", None))
        if inspect.isclass(value):
            docs += [getattr(m, "__doc__", None) for key, m in vars(value).items() if not key.startswith("_")]
    return "\n".join(doc for doc in docs if isinstance(doc, str))


def strings(path):
    """Return all strings of a file of Python: docstrings, messages, what it prints."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def texts():
    """Yield the name and the text of all that a user reads."""
    user_text = [path for path in MARKDOWN if "tests" not in path.parts]
    for path in [*PAGES, *REPORTS, *user_text, *sorted((DOCS / "paper").glob("*.md"))]:
        yield path.relative_to(ROOT).as_posix(), path.read_text()
    for name in MODULES:
        yield name, public_docstrings(name)
    for path in [ROOT / "fastrecur" / "_arguments" / "messages.py", *sorted((ROOT / "examples").glob("*.py"))]:
        yield path.relative_to(ROOT).as_posix(), strings(path)


def test_vocabulary():
    code = re.compile(r"\{\w+\}|``[^`]*``|`[^`\n]*`|https?://\S+|^ *(?:>>>|\.\.\.) .*$", re.MULTILINE)
    assert not {(name, match[0].lower()) for name, text in texts() for match in OLD_WORD.finditer(code.sub(" ", text))
                } - ALLOWED  # fmt: skip


# ---- What help() shows -----------------------------------------------------------------------------------------------

FUNCTIONS = [
    getattr(importlib.import_module(module), name)
    for module in ("fastrecur", "fastrecur.smoothing", "fastrecur.filters", "fastrecur.returns")
    for name in importlib.import_module(module).__all__
]
FUNCTIONS = [function for function in FUNCTIONS if inspect.isfunction(function)]
SECTION = r"^{}\n-+\n(.*?)(?=^\w[\w ]*\n-+$|\Z)"


def entries(function):
    """Return a function's documented parameters, each with its text: several may share one."""
    found = re.search(SECTION.format("Parameters"), inspect.getdoc(function), re.M | re.S)
    parts = re.split(r"^(?=\S)", found[1], flags=re.M)[1:] if found else []
    heads = [part.partition("\n")[0].partition(" : ")[0].split(", ") for part in parts]
    return {name: part for part, names in zip(parts, heads, strict=True) for name in names}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_parameter_and_what_is_returned_is_documented(function):
    signature, text = inspect.signature(function), inspect.getdoc(function)
    assert entries(function).keys() == signature.parameters.keys()
    assert re.search(r"^Returns\n-|\breturn", text, re.M | re.I) or signature.return_annotation in (None, "None")


def test_statistics_say_the_same_of_a_parameter():
    """In most words for the mean, in the same words for all others."""
    texts = {}
    for name in ("ewm_var", "ewm_std", "ewm_cov", "ewm_corr", "ewm_sum"):
        for parameter, text in entries(getattr(importlib.import_module("fastrecur.smoothing"), name)).items():
            if parameter not in ("x", "y", *(("adjust", "ignore_na") if name == "ewm_sum" else ())):
                assert texts.setdefault(parameter, text.strip()) == text.strip()


@pytest.mark.parametrize("module", ["fastrecur", "fastrecur.torch", "fastrecur.torch.distributed", *(
    f"fastrecur.{name}" for name in ("smoothing", "filters", "returns"))])  # fmt: skip
def test_a_formula_stands_in_plain_text_before_it_stands_in_latex(module):
    """Whom `help` shows a formula is not to read LaTeX."""
    module = importlib.import_module(module)
    for name in module.__all__:
        paragraphs = (getattr(module, name).__doc__ or "").split("\n\n")
        for before, after in zip(paragraphs, paragraphs[1:], strict=False):
            if after.lstrip().startswith(".. math::"):
                assert re.match(r"\s*``[^`]+ = ", before), (name, before)
