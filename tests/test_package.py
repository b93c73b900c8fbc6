"""The package as a whole: what it imports, who imports whom, its examples."""

import ast
import configparser
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    prefix
    + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for folder, prefix in (("npgpt", ""), ("kernels", "npgpt."))
    for path in (ROOT / folder).rglob("*.py")
}


def imports(module, top_level_only=False):
    """Names of the modules that a module imports."""
    tree = ast.parse(SOURCES[module].read_text())
    names = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {part if part in SOURCES else node.module for part in parts}
    return names


def test_import_needs_numpy_alone():
    code = (
        "import sys, json; before = set(sys.modules); import npgpt; "
        "new = set(sys.modules) - before; "
        "print(json.dumps(sorted({name.split('.')[0] for name in new})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(json.loads(done.stdout)) - set(sys.stdlib_module_names)
    assert {m for m in loaded if not m.startswith("_")} == {"npgpt", "numpy"}


def ours(module, top_level_only=True):
    return {n for n in imports(module, top_level_only) if n.startswith("npgpt")}


def test_ops_imports_nothing_of_ours_but_the_names_of_types():
    assert ours("npgpt.ops", top_level_only=False) == {"npgpt.shapes"}
    assert not ours("npgpt.shapes", top_level_only=False)


def test_decoding_never_looks_inside_the_model():
    for module in SOURCES:
        if module.startswith("npgpt.decoding"):
            inside = ours(module, top_level_only=False)
            hidden = ("npgpt.gpt2", "npgpt.backend", "npgpt.model", "npgpt.kernels")
            assert not [n for n in inside if n.startswith(hidden)], module


def test_nothing_imports_the_command():
    for module in SOURCES:
        if module != "npgpt.__main__":
            assert not [n for n in ours(module, False) if n.startswith("npgpt.cli")]


def test_no_import_cycles():
    """Imports inside functions counted: what is hidden there ties just as fast."""
    graph = {module: ours(module, False) & set(SOURCES) for module in SOURCES}
    assert not circle(graph)


def circle(graph):
    """What is left of a graph when all that stands above nothing is taken away."""
    left = {node: set(needs) - {node} for node, needs in graph.items()}
    while free := [node for node, needs in left.items() if not needs & set(left)]:
        for node in free:
            del left[node]
    return left


def room(module):
    """The folder of a module; a flat file beside rooms is a room of its own."""
    package, flat = module.rpartition(".")[0], ("npgpt", "npgpt.decoding")
    is_face = SOURCES[module].name == "__init__.py"
    return module if is_face or package in flat else package


def test_rooms_import_downwards_only():
    """No circle among rooms either, and none that goes out by way of a flat file."""
    graph = {}
    for module in SOURCES:
        needs = {room(name) for name in ours(module, False) & set(SOURCES)}
        graph.setdefault(room(module), set()).update(needs)
    assert not circle(graph)


KNOWN = {  # the forward pass, its derivatives, and packed files
    "npgpt.backend", "npgpt.block", "npgpt.config", "npgpt.errors", "npgpt.gpt2",
    "npgpt.model", "npgpt.ops", "npgpt.shapes", "npgpt.storage.checkpoint",
    "npgpt.storage.tensorfile", "npgpt.support.arguments", "npgpt.support.files",
    "npgpt.support.threads",
    "npgpt.training.backward", "npgpt.training.blocked_backward",
    "npgpt.training.engine", "npgpt.training.gradients",
    "npgpt.training.mixed", "npgpt.training.optim",
}  # fmt: skip


def test_kernels_know_these_modules_and_no_others():
    known = set()
    for module, path in SOURCES.items():
        if path.is_relative_to(ROOT / "kernels"):
            known |= {n for n in ours(module, False) if "npgpt.kernels" not in n}
    assert known == KNOWN


def test_setup_installs_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    stated = setup["options"]["packages"].split()
    found = {
        "npgpt." * (folder != "npgpt") + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in ("npgpt", "kernels", "weights")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert stated == sorted(found)


def test_flat_files_are_the_reading_path():
    assert len(list((ROOT / "npgpt").glob("*.py"))) <= 26


def test_no_file_is_longer_than_can_be_read_at_a_sitting():
    lengths = {name: path.read_text().count("\n") for name, path in SOURCES.items()}
    assert not {name: n for name, n in lengths.items() if n > 300}


def test_every_example_in_a_docstring_is_true(tmp_path):
    packages = ["npgpt"]
    if importlib.util.find_spec("numba"):  # an extra
        packages.append("npgpt.kernels")
    # pytest imports a clone's kernels as "kernels": what it compiles under that name
    # must not be found by the command, which has no module of that name.
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    nothing = tmp_path / "pytest.ini"  # setup.cfg chooses the suite's own files
    nothing.write_text("[pytest]\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--doctest-modules",
            "--pyargs",
            *packages,
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            str(nothing),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_says_what_it_is(module):
    assert ast.get_docstring(ast.parse(SOURCES[module].read_text()))
