"""The import rule and what else can be read from the sources."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

import fastsoftmax

PACKAGE = Path(fastsoftmax.__file__).parent

#: What the modules of a part may import from the package besides their own part. A part is a
#: module or folder directly below `fastsoftmax`. An arrow back would show here first.
INSIDE = {
    "_cache": set(),
    "_jit": {"_cache"},
    "_version": set(),
    "_persistence": {"_version"},
    "_pool": set(),
    "_threads": {"_jit", "_pool"},
    "_validation": set(),
    "_kernels": {"_jit"},
    "_linalg": {"_jit", "_kernels", "_threads"},
    "functional": {"_jit", "_kernels", "_threads"},
    "_designs": {"_jit", "_kernels", "_linalg", "_threads", "_validation", "functional"},
    "objective": {"_designs", "_persistence", "_validation"},
    "_solvers": {"_jit", "_kernels", "_linalg", "_threads"},  # kernels over vectors, of no data
    "_files": set(),
    "batches": {"_files"},
    "linear_model": {
        *("_designs", "_kernels", "_persistence", "_solvers", "_threads", "_validation"),
        *("batches", "objective"),
    },
    "_cluster": {"_designs", "linear_model"},
    "dask": {"_cluster", "_validation", "linear_model"},
    "_versions": {"_cache", "_threads"},
    "_warmup": {"linear_model", "objective"},
    "__main__": {"_versions", "_warmup"},
    "__init__": {"_version", "_versions", "_warmup", "functional", "linear_model", "objective"},
}

#: What they may import from elsewhere, besides the standard library.
OUTSIDE = {
    "_cache": {"llvmlite", "numba", "numpy"},
    "_jit": {"numba", "numpy"},
    "_version": set(),
    "_persistence": {"sklearn"},
    "_pool": set(),
    "_threads": {"joblib", "numba"},
    "_validation": {"numpy", "scipy", "sklearn"},
    "_kernels": {"llvmlite", "numba", "numpy"},
    "_linalg": {"numpy", "scipy"},
    "functional": {"numpy", "scipy"},
    "_designs": {"numpy", "scipy"},
    "_files": {"numpy"},
    "batches": {"numpy", "pyarrow"},
    "objective": {"numpy"},
    "_solvers": {"numpy"},
    "linear_model": {"numpy", "pandas", "rich", "scipy", "sklearn"},
    "_cluster": {"dask", "numpy", "sklearn"},
    "dask": {"numpy", "sklearn"},
    "_versions": set(),
    "_warmup": {"numpy", "scipy"},
    "__main__": set(),
    "__init__": set(),
}

#: Kernels may take from Numba what they are written in, never a decorator.
KERNELS_FROM_NUMBA = {"types", "intrinsic", "cgutils"}
#: ... and from the standard library.
KERNELS_STANDARD = {"__future__", "collections", "contextlib", "functools", "math", "typing"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
every_source = pytest.mark.parametrize(
    "source", SOURCES, ids=lambda source: str(source.relative_to(PACKAGE))
)


def part_of(source):
    first = source.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(source):
    """Yield ``(module, name or None)`` of every import, also of those inside functions."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: a relative import"
            for alias in node.names:
                yield node.module, alias.name


def own_imports(source):
    """Yield the parts of the package that a module imports."""
    for module, name in imports_of(source):
        root, *rest = module.split(".")
        if root == "fastsoftmax":
            yield rest[0] if rest else name


def test_the_tables_name_every_part():
    parts = {part_of(source) for source in SOURCES}
    assert parts == set(INSIDE) == set(OUTSIDE)


def test_the_tables_allow_nothing_that_is_not_used():
    for part in INSIDE:
        sources = [source for source in SOURCES if part_of(source) == part]
        used = {name for source in sources for name in own_imports(source)} - {part}
        assert used == INSIDE[part], part


@every_source
def test_imports_point_one_way(source):
    part = part_of(source)
    for name in own_imports(source):
        assert name in INSIDE[part] | {part}, f"{source.name} imports {name}"


@every_source
def test_imports_from_elsewhere_are_those_of_the_table(source):
    allowed = OUTSIDE[part_of(source)] | {"fastsoftmax"} | set(sys.stdlib_module_names)
    for module, _ in imports_of(source):
        assert module.split(".")[0] in allowed, f"{source.name} imports {module}"


def test_the_order_of_parts_has_no_cycle():
    order = []
    while len(order) < len(INSIDE):
        ready = [p for p in INSIDE if p not in order and INSIDE[p] <= set(order)]
        assert ready, set(INSIDE) - set(order)
        order += ready


@pytest.mark.parametrize("source", [*(PACKAGE / "_kernels").glob("*.py")], ids=lambda s: s.name)
def test_kernels_see_arrays_only(source):
    for module, name in imports_of(source):
        root = module.split(".")[0]
        if root == "numba":
            assert name in KERNELS_FROM_NUMBA, f"{source.name} imports {module}.{name}"
        elif root == "llvmlite":
            assert source.name == "vectors.py"  # the only one that speaks LLVM's language
        elif root not in ("fastsoftmax", "numpy"):
            assert root in KERNELS_STANDARD, f"{source.name} imports {module}"


def test_only_jit_compiles():
    decorators = {"njit", "jit", "vectorize", "guvectorize", "cfunc", "stencil"}
    for source in SOURCES:
        names = {n.attr for n in ast.walk(ast.parse(source.read_text())) if hasattr(n, "attr")}
        names |= {name for _, name in imports_of(source)}
        assert bool(names & decorators) == (source.name == "_jit.py"), source


def test_only_jit_chooses_flags():
    for source in SOURCES:
        if source.name != "_jit.py":
            keywords = {
                node.arg
                for node in ast.walk(ast.parse(source.read_text()))
                if isinstance(node, ast.keyword)
            }
            assert not keywords & {"fastmath", "nogil", "cache", "error_model"}, source


def test_only_one_place_chooses_by_how_X_is_stored():
    """Who validates may ask, too; below that, nobody but the chooser."""
    below = {"_kernels", "_linalg", "_designs", "objective", "_solvers"}
    callers = {
        source.relative_to(PACKAGE).as_posix()
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text()))
        if "issparse" in (getattr(node, "attr", ""), getattr(node, "id", ""))
        if part_of(source) in below
    }
    assert callers == {"_designs/choose.py"}


@every_source
def test_modules_are_named_by_what_they_hold(source):
    assert source.stem.strip("_") not in {"utils", "util", "common", "helpers", "misc"}


@every_source
def test_every_module_and_public_name_has_a_docstring(source):
    tree = ast.parse(source.read_text())
    assert ast.get_docstring(tree)
    if part_of(source) == "_kernels":
        return  # drivers say no more than the block functions above them
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_names_for_users_are_sorted_and_complete():
    names = fastsoftmax.__all__
    assert names == sorted(names)
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {a.asname or a.name for n in tree.body if hasattr(n, "names") for a in n.names}
    assigned = {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets}
    assert set(names) == (imported | assigned) - {"__all__"}
    for name in names:
        assert hasattr(fastsoftmax, name)


@every_source
def test_all_of_a_module_exists_and_is_sorted(source):
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = ast.literal_eval(node.value)
            assert names == sorted(names)
            module = ".".join(("fastsoftmax", *source.relative_to(PACKAGE).with_suffix("").parts))
            imported = importlib.import_module(module.removesuffix(".__init__"))
            assert all(hasattr(imported, name) for name in names)


def test_the_oracle_imports_nothing_of_ours():
    for module, _ in imports_of(Path(__file__).with_name("reference.py")):
        assert module.split(".")[0] not in ("fastsoftmax", "numba", "sklearn")
