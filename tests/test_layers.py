"""The house rules, read off the source: who may import whom, what an import may load, what may never be called."""

import ast
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
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
RAY = {"audit", "driver", "search_spaces", "tuning"}
FILES = sorted(p for d in ("raydet", "ops", "search_spaces") for p in (ROOT / d).rglob("*.py"))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "raydet" else parts[0]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            if node.module == "raydet":
                yield from (f"raydet.{alias.name}" for alias in node.names)
            elif node.module:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    mine = module(path)
    if mine == "__init__":
        return
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "raydet" and rest:
            theirs = rest.partition(".")[0]
            if theirs in LEVEL:  # else a name that raydet/__init__.py gives
                assert theirs == mine or LEVEL[theirs] < LEVEL[mine], f"{mine} imports {theirs}, which stands above it"
        assert top != "ray" or mine in RAY, f"{mine} must not know Ray"
        assert top != "tyro" or mine == "cli", "tyro is for the command line"
        assert top not in ("ops", "search_spaces"), f"{mine}: write raydet.{name}; a second copy would be imported"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_runs_foreign_code_is_called(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in ("eval", "exec", "pickle.load", "pickle.loads", "os.system", "yaml.load"), (
            f"{name} in {path}"
        )
        assert not any(k.arg == "shell" for k in node.keywords), f"shell=... in {path}"
        if name == "torch.load":
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("weights_only") == "True", f"torch.load without weights_only=True in {path}"
        if name == "sys.exit":
            assert module(path) == "cli", "only the command line ends the process"


def loaded(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after `code`."""
    script = f"{code}\nimport sys; print(' '.join({{m.partition('.')[0] for m in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(out.stdout.split())


def test_import_raydet_loads_nothing_heavy() -> None:
    assert not loaded("import raydet") & {"torch", "ray", "tyro", "cupy", "numpy", "rich"}


def test_a_recipe_needs_neither_torch_nor_ray() -> None:
    assert not loaded("import raydet; raydet.recipe('efficientdet_d0_coco')") & {"torch", "ray", "tyro", "numpy"}


@pytest.mark.slow
def test_what_a_gpu_benchmark_imports_needs_no_more_than_torch() -> None:
    heavy = {"ray", "tyro", "cupy", "rich", "safetensors", "timm", "effdet", "sklearn", "matplotlib", "optuna"}
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
