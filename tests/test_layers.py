"""The house rules, read off the source: who may import whom, what an import may load, what may never be called."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("exceptions", "io", "ops", "distributed"),
    ("config",),
    ("models", "recipes", "runs"),
    ("data", "quantization"),
    ("tasks", "search_spaces", "visualization", "terminal"),
    ("training", "onnx"),
    ("driver", "inference"),
    ("audit", "bench", "tuning"),
    ("cli",),
)
"""Packages may import those of layers before theirs, and of their own package; never a neighbour in their layer."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
RAY = {"audit", "driver", "search_spaces", "tuning"}
FILES = sorted(p for d in ("raydet", "ops", "search_spaces") for p in (ROOT / d).rglob("*.py"))
ENTRIES = {"__init__", "__main__"}
"""Modules of the root that give what lies in the layers."""


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "raydet" else ("raydet", *parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in FILES}


@functools.cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}


def package(name: str) -> str:
    """raydet.data.formats.index -> data."""
    return name.split(".")[1] if "." in name else "__init__"


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES or node.module == "raydet" else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_package_has_a_layer() -> None:
    assert {package(name) for name in MODULES} - ENTRIES == set(LEVEL)


def test_imports_point_down() -> None:
    wrong = []
    for name, tree in trees().items():
        mine = package(name)
        for other in imports(ast.walk(tree)):
            top, theirs = other.partition(".")[0], package(other)
            if mine not in ENTRIES and top == "raydet" and theirs in LEVEL and theirs != mine:
                wrong += [f"{name} imports {other}, which stands above it"] * (LEVEL[theirs] >= LEVEL[mine])
            wrong += [f"{name} must not know Ray"] * (top == "ray" and mine not in RAY)
            wrong += [f"{name}: write raydet.{other}; a second copy would load"] * (top in ("ops", "search_spaces"))
    assert not wrong


def test_no_module_is_needed_to_load_itself() -> None:
    """No circle of imports at the top of modules, within a package either."""
    needs = {name: {n for n in imports(iter(tree.body)) if n in MODULES} - {"raydet"} for name, tree in trees().items()}
    order = graphlib.TopologicalSorter(needs)
    order.prepare()  # raises CycleError, which names the circle


def test_at_most_five_modules_lie_flat() -> None:
    assert sorted(p.name for p in (ROOT / "raydet").glob("*.py")) == [
        "__init__.py",
        "__main__.py",
        "distributed.py",
        "exceptions.py",
    ]


def test_where_is_what_names_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("## Where is what")[2].partition("\n## ")[0]
    files = re.findall(r"\| `(\S+\.py)` \|", table)
    assert len(files) >= 22 and all((ROOT / file).is_file() for file in files)


def test_the_house_names_every_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("```")[2].partition("```")[0]
    assert {package(name) for name in MODULES} - ENTRIES <= set(re.findall(r"^ {0,2}(\w+)/?", text, re.MULTILINE))


def test_nothing_that_runs_foreign_code_is_called() -> None:
    wrong = []
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            what, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            forbidden = what in ("eval", "exec", "pickle.load", "pickle.loads", "os.system", "yaml.load")
            forbidden |= "shell" in given
            forbidden |= what == "torch.load" and given.get("weights_only") != "True"
            forbidden |= what == "sys.exit" and package(name) != "cli"
            wrong += [f"{name}, line {node.lineno}: {what}"] * forbidden
    assert not wrong


def loaded(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after `code`."""
    script = f"{code}\nimport sys; print(' '.join({{m.partition('.')[0] for m in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(out.stdout.split())


def test_import_raydet_loads_nothing_heavy() -> None:
    assert not loaded("import raydet") & {"torch", "ray", "cupy", "numpy", "rich"}


def test_a_recipe_needs_neither_torch_nor_ray() -> None:
    assert not loaded("import raydet; raydet.recipe('efficientdet_d0_coco')") & {"torch", "ray", "numpy"}


@pytest.mark.slow
def test_what_a_gpu_benchmark_imports_needs_no_more_than_torch() -> None:
    heavy = {"ray", "cupy", "rich", "safetensors", "timm", "effdet", "sklearn", "matplotlib", "optuna"}
    assert not loaded("import raydet.bench.gpu, raydet.ops, raydet.models, raydet.training.loop") & heavy


@pytest.mark.slow
def test_no_gpu_is_touched_by_an_import() -> None:
    code = "import raydet.bench.gpu, raydet.ops, torch; assert not torch.cuda.is_initialized()"
    assert "torch" in loaded(code)


def test_every_module_of_the_package_is_packaged() -> None:
    text = (ROOT / "setup.cfg").read_text()
    packages = {".".join(p.parent.relative_to(ROOT).parts) for p in FILES if p.name == "__init__.py"}
    for package in packages:
        name = package if package.startswith("raydet") else f"raydet.{package}"
        assert f"    {name}\n" in text, f"{name} is not in setup.cfg"
