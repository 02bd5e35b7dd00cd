"""The cache and the decorators of `fastsoftmax._jit`.

Most tests run in processes of their own, on the smallest driver (`cholesky.solve`, compiled in
less than a second), from a copy of the kernels alone, whose import leaves out scikit-learn.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import numba
import numpy as np
import pytest
from child import ROOT, run_python

from fastsoftmax import _jit
from fastsoftmax._jit import kernel_view

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="nothing is compiled, so nothing is cached"
)

#: Solves 4 x = b with L = 2 I, and prints the solution, the hits, the misses and what is stored.
SOLVE = """
import json, sys
import numpy as np
from fastsoftmax import _jit
from fastsoftmax._kernels import cholesky

x = np.full((1, 1, 4), 8.0)
cholesky.solve(0, 1, _jit.kernel_view(2.0 * np.eye(4)), x, np.empty((1, 4)))
stats = cholesky.solve.stats
folder = _jit.cache_directory()
print(json.dumps({
    "x": x[0, 0].tolist(),
    "hits": sum(stats.cache_hits.values()),
    "misses": sum(stats.cache_misses.values()),
    "folder": folder and str(folder),
}))
"""


def copy_kernels(site):
    """Copy `_jit` and the kernels into a package without the rest, and return its folder."""
    package = site / "fastsoftmax"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastsoftmax" / "_kernels", package / "_kernels", ignore=ignore)
    shutil.copy(ROOT / "fastsoftmax" / "_jit.py", package)
    (package / "__init__.py").touch()
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return copy_kernels(tmp_path_factory.mktemp("kernels") / "site")


@pytest.fixture(scope="module")
def solve(site):
    """Return what `code` reports with a cache in a given folder."""

    def run(folder, *, path=site, code=SOLVE, **environment):
        return json.loads(
            run_python(code, path=path, FASTSOFTMAX_CACHE_DIR=str(folder), **environment)
        )

    return run


def entries(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "not there yet" / "cache"


# --- Hits and misses ------------------------------------------------------------------------------


def test_a_second_process_takes_what_the_first_compiled(solve, folder):
    cold = solve(folder)
    assert (cold["x"], cold["hits"], cold["misses"]) == ([2.0] * 4, 0, 1)
    stored = entries(folder)
    assert len(stored) == 1
    assert stored[0].startswith("solve-")
    assert stored[0].endswith(".kernel")
    before = (folder / stored[0]).stat()
    warm = solve(folder)
    assert (warm["x"], warm["hits"], warm["misses"]) == ([2.0] * 4, 1, 0)
    assert entries(folder) == stored
    assert (folder / stored[0]).stat().st_mtime_ns == before.st_mtime_ns


def truncated(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def empty(content):
    return b""


def checksum_only(content):
    return content[:32]


def another_format(content):
    payload = b"not a pickle"
    return hashlib.sha256(payload).digest() + payload


@pytest.mark.parametrize(
    "damage", [truncated, flipped, empty, checksum_only, another_format], ids=lambda f: f.__name__
)
def test_a_damaged_entry_is_compiled_anew_and_replaced(solve, damage, warm_folder, tmp_path):
    folder = shutil.copytree(warm_folder, tmp_path / "copy")
    (entry,) = folder.iterdir()
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    result = solve(folder)
    assert (result["x"], result["hits"]) == ([2.0] * 4, 0)
    assert entries(folder) == [entry.name]  # no temporary file is left
    checksum, payload = entry.read_bytes()[:32], entry.read_bytes()[32:]
    assert hashlib.sha256(payload).digest() == checksum
    assert len(payload) > 1000


@pytest.fixture(scope="module")
def warm_folder(solve, tmp_path_factory):
    """A cache with the one entry of `SOLVE`."""
    folder = tmp_path_factory.mktemp("cache") / "warm"
    solve(folder)
    return folder


def test_an_entry_that_is_a_folder_does_not_break_a_call(solve, warm_folder, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    (folder / entries(warm_folder)[0]).mkdir()
    result = solve(folder)
    assert (result["x"], result["hits"]) == ([2.0] * 4, 0)
    assert len(entries(folder)) == 1


def test_an_edited_callee_changes_the_key(solve, warm_folder, tmp_path):
    copy = copy_kernels(tmp_path / "site")
    folder = shutil.copytree(warm_folder, tmp_path / "cache")
    # The place does not matter ...
    assert solve(folder, path=copy)["hits"] == 1
    # ... a callee in the same file does ...
    kernel = copy / "fastsoftmax" / "_kernels" / "cholesky.py"
    source = kernel.read_text()
    edited = source.replace("x[k] -= scale * row[k]", "x[k] -= 2.0 * scale * row[k]")
    edited = edited.replace("rights[r, i] /= a[i, i]", "rights[r, i] /= 0.5 * a[i, i]")
    assert edited.count("0.5") == 1
    kernel.write_text(edited)
    result = solve(folder, path=copy)
    assert (result["x"], result["hits"]) == ([4.0] * 4, 0)
    # ... and reverting finds the old entry again ...
    kernel.write_text(source)
    result = solve(folder, path=copy)
    assert (result["x"], result["hits"]) == ([2.0] * 4, 1)


def test_drivers_have_entries_of_their_own_that_see_other_files(solve, folder, tmp_path):
    """What Numba's own cache gets wrong (numba#6845, numba#8851)."""
    copy = copy_kernels(tmp_path / "site")
    kernels = copy / "fastsoftmax" / "_kernels"
    callee = "@block_kernel\ndef double(x):\n    return 2.0 * x\n"
    imports = "from fastsoftmax._jit import block_kernel, driver\n"
    (kernels / "callee.py").write_text(imports + callee)
    caller = """
from fastsoftmax._kernels.callee import double

@driver
def run(first, last, out):
    for i in range(first, last):
        out[i] = double(21.0)
"""
    (kernels / "caller.py").write_text(imports + caller)
    code = """
import json
import numpy as np
from fastsoftmax._jit import launch, machine_code
from fastsoftmax._kernels.caller import run
results = []
out = np.zeros(2)
launch(2, machine_code(run, (out,)), (out,))
results.append([out.tolist(), sum(run.stats.cache_hits.values())])
run(0, 2, out)
results.append([out.tolist(), sum(launch.stats.cache_hits.values())])
print(json.dumps(results))
"""
    assert solve(folder, path=copy, code=code) == [[[42.0] * 2, 0]] * 2
    assert [name.split("-")[0] for name in entries(folder)] == ["_launch", "run"]
    assert solve(folder, path=copy, code=code) == [[[42.0] * 2, 1]] * 2
    (kernels / "callee.py").write_text(imports + callee.replace("2.0", "3.0"))
    assert solve(folder, path=copy, code=code) == [[[63.0] * 2, 0]] * 2


def test_options_of_one_function_are_part_of_the_key(monkeypatch, folder):
    monkeypatch.setenv("FASTSOFTMAX_CACHE_DIR", str(folder))

    def same(x):
        return x

    codegen = numba.core.registry.cpu_target.target_context.codegen()
    keys = {
        _jit._HardenedCache(same, options)._entry(signature, codegen)
        for options in ({}, {"parallel": True}, {"fastmath": True})
        for signature in ("(float64,)", "(float32,)")
    }
    assert len(keys) == 6


def test_settings_that_change_the_code_change_the_key(solve, warm_folder, tmp_path):
    folder = shutil.copytree(warm_folder, tmp_path / "copy")
    assert solve(folder, NUMBA_OPT="1")["hits"] == 0
    assert solve(folder, NUMBA_NUM_THREADS="1")["hits"] == 1


def test_old_entries_are_pruned(tmp_path, monkeypatch):
    monkeypatch.setattr(_jit, "_MOST_ENTRIES", 3)
    for age in range(6):
        entry = tmp_path / f"{age}.kernel"
        entry.touch()
        os.utime(entry, (1e9 - age, 1e9 - age))
    (tmp_path / "not ours").touch()
    _jit._prune(tmp_path)
    assert entries(tmp_path) == ["0.kernel", "1.kernel", "2.kernel", "not ours"]


# --- Folders --------------------------------------------------------------------------------------


def test_the_folder_is_created_private(folder, monkeypatch):
    monkeypatch.setenv("FASTSOFTMAX_CACHE_DIR", str(folder))
    assert _jit.cache_directory() == folder
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX")
def test_a_folder_that_others_may_write_to_is_not_used(solve, tmp_path, monkeypatch):
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv("FASTSOFTMAX_CACHE_DIR", str(folder))
    for mode, is_private in ((0o700, True), (0o755, True), (0o770, False), (0o702, False)):
        folder.chmod(mode)
        assert _jit.cache_directory() == (folder if is_private else None)
    folder.chmod(0o777)
    result = solve(folder)
    assert (result["x"], result["hits"], result["folder"]) == ([2.0] * 4, 0, None)
    assert entries(folder) == []


@pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX")
def test_a_folder_of_someone_else_is_not_used(tmp_path, monkeypatch):
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("FASTSOFTMAX_CACHE_DIR", str(folder))
    assert _jit.cache_directory() == folder
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert _jit.cache_directory() == (folder if owner == 0 else None)  # root may see all anyhow
    if owner == 0:
        os.chown(folder, 12345, -1)
        assert _jit.cache_directory() is None


def test_a_folder_that_cannot_be_made_is_done_without(solve, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("FASTSOFTMAX_CACHE_DIR", str(file))
    assert _jit.cache_directory() is None
    result = solve(file / "below")
    assert (result["x"], result["hits"], result["folder"]) == ([2.0] * 4, 0, None)


@pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX")
def test_a_folder_that_is_not_writable_serves_what_it_has(solve, warm_folder):
    """Root may write anywhere, so a process that is root is refused its temporary file."""
    code = """
import os, tempfile
def refuse(*arguments, **options):
    raise PermissionError(13, "not writable")
if os.getuid() == 0:
    tempfile.NamedTemporaryFile = refuse
""" + SOLVE.replace("2.0 * np.eye(4))", "2.0 * np.eye(4, dtype=DTYPE))")
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        Path(place).chmod(0o755)
        folder = shutil.copytree(warm_folder, Path(place) / "cache")
        for entry in folder.iterdir():
            entry.chmod(0o644)
        folder.chmod(0o555)
        stored = entries(folder)
        try:
            for dtype, hits in (("np.float64", 1), ("np.float32", 0)):
                prelude = f"import numpy as np\nDTYPE = {dtype}\n"
                result = solve(folder, code=prelude + code, path=ROOT)
                assert (result["x"], result["hits"]) == ([2.0] * 4, hits)
                assert entries(folder) == stored
        finally:
            folder.chmod(0o755)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="paths of other systems differ")
def test_the_default_folder_is_the_user_s(tmp_path, monkeypatch):
    monkeypatch.delenv("FASTSOFTMAX_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert _jit.cache_directory() == tmp_path / "xdg" / "fastsoftmax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert _jit.cache_directory() == tmp_path / "home" / ".cache" / "fastsoftmax"


def test_no_home_is_done_without(monkeypatch):
    monkeypatch.delenv("FASTSOFTMAX_CACHE_DIR", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(_jit, "_user_cache_home", homeless)
    assert _jit.cache_directory() is None


# --- Import ---------------------------------------------------------------------------------------


def test_import_compiles_nothing_and_touches_no_folder(solve, folder):
    code = """
import json, sys
import fastsoftmax, fastsoftmax.functional
from numba.core.dispatcher import Dispatcher
from numba.np.ufunc import parallel
dispatchers = {
    f"{module.__name__}.{name}": len(value.signatures)
    for module in list(sys.modules.values()) if module.__name__.startswith("fastsoftmax")
    for name, value in vars(module).items() if isinstance(value, Dispatcher)
}
print(json.dumps([dispatchers, parallel._is_initialized]))
"""
    dispatchers, launched = solve(folder, path=ROOT, code=code)
    assert len(dispatchers) >= 12
    assert set(dispatchers.values()) == {0}
    assert not launched
    assert not folder.exists()
    assert not folder.parent.exists()


# --- Signatures -----------------------------------------------------------------------------------


def test_every_driver_has_one_signature_per_dtype(tmp_path):
    """Whatever the storage and flags of the inputs."""
    code = f"""
import json
import numpy as np
from scipy import sparse
from fastsoftmax import SoftmaxObjective, _threads
from fastsoftmax._designs import Response, curvature, dense, predict
from fastsoftmax._designs.sparse import kernels as csr
from fastsoftmax._kernels import cholesky

rng = np.random.default_rng(0)
for dtype in (np.float64, np.float32):
    X = rng.normal(size=(70, 3)).astype(dtype)
    read_only = X.copy()
    read_only.flags.writeable = False
    unaligned = np.empty(X.nbytes + 1, np.uint8)[1:].view(dtype).reshape(X.shape)
    unaligned[...] = X
    file = np.memmap({str(tmp_path / "X")!r}, dtype, "w+", shape=X.shape)
    file[...] = X
    labels = rng.integers(0, 3, 70)
    for storage in (X, read_only, unaligned, file, np.asfortranarray(X), X[::-1],
                    sparse.csr_array(X)):
        for y in (labels, labels.astype(np.int8), np.eye(3)[labels]):
            for weights in (None, np.ones(70), np.ones(70, dtype)):
                target = SoftmaxObjective(storage, y, sample_weight=weights, n_rows=3)
                for params in (np.zeros((3, 4)), np.zeros(12), np.zeros((3, 4), np.float32)):
                    target.value_and_gradient(params)
                    target.hessian_vector_product(params, params)
                design = target.design
                design.hessian(np.zeros((3, 3)), np.zeros(3))
                for response in Response:
                    predict(design.X, np.zeros((3, 3), np.float32), np.zeros(3), response)
                SoftmaxObjective(storage, labels % 2).value_and_gradient(np.zeros(4))
print(json.dumps({{
    driver.__name__: [str(s) for s in driver.signatures]
    for driver in (
        dense.kernels.loss_gradient, dense.kernels.hessian_vector,
        dense.predict_kernels.predict, curvature.kernels.weighted_grams,
        csr.terms_of_rows, csr.logits_of_rows, cholesky.factor,
    )
}}))
"""
    counts = {name: len(found) for name, found in json.loads(run_python(code)).items()}
    assert counts == {
        "loss_gradient": 2,
        "hessian_vector": 2,
        "predict": 2,
        "weighted_grams": 2,
        "terms_of_rows": 2,
        "logits_of_rows": 2,
        "factor": 0,  # no solver ran
    }


def test_kernel_view_is_read_only_base_class_c_order_and_aligned(tmp_path):
    X = np.arange(12.0).reshape(3, 4)
    file = np.memmap(tmp_path / "X", float, "w+", shape=(3, 4))
    file[...] = X
    unaligned = np.empty(X.nbytes + 1, np.uint8)[1:].view(float).reshape(3, 4)
    unaligned[...] = X
    for array in (X, file, np.asfortranarray(X), unaligned, X[::-1][::-1], np.ma.array(X)):
        was_writable = array.flags.writeable
        view = kernel_view(array)
        assert type(view) is np.ndarray
        assert view.flags.c_contiguous
        assert view.flags.aligned
        assert not view.flags.writeable
        assert array.flags.writeable == was_writable
        np.testing.assert_array_equal(view, array)
        assert np.shares_memory(view, array) == (array.flags.carray)


# --- Flags ----------------------------------------------------------------------------------------


@_jit.block_kernel
def _sum_and_quotient(x):
    s = 0.0
    for i in range(x.size):
        s += x[i]
    return s, s / 0.0


@numba.njit(error_model="numpy")
def _run(x):
    return _sum_and_quotient(x)


def test_fast_math_keeps_what_is_not_finite():
    assert np.isnan(_run(np.array([1.0, np.nan, 2.0]))[0])
    assert np.isnan(_run(np.array([np.inf, -np.inf, 1.0]))[0])
    # A division by zero does not raise.
    assert _run(np.array([1.0, np.inf, 2.0])) == (np.inf, np.inf)
    assert not {"nnan", "ninf", "fast"} & set(_jit.FASTMATH)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="vectors of another CPU")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loops_over_lanes_are_vector_code(dtype, tmp_path):
    """LLVM tells which loops it left scalar; one alone once took a third of a pass."""
    code = f"""
import os
import llvmlite.binding
os.dup2(1, 2)  # where LLVM speaks
for kind in ("", "-missed"):
    llvmlite.binding.set_option("", f"-pass-remarks{{kind}}=loop-vectorize")
import numpy as np
from fastsoftmax._jit import driver, kernel_view
from fastsoftmax._kernels import lanes

@driver
def run(first, last, logits, labels, soft, weights, scratch, losses):
    losses[0] = lanes.cross_entropy(logits, last, labels, weights, scratch)
    losses[1] = lanes.logistic(logits, last, labels, soft, weights, scratch)
    lanes.probabilities(logits, last, scratch)

logits, scratch = np.zeros((3, 64), {dtype!r}), np.zeros((lanes.N_LANE_ROWS, 64), {dtype!r})
labels, soft = np.zeros(64, np.int32), np.zeros((0, 2), {dtype!r})
inputs = map(kernel_view, (labels, soft, np.zeros(0, {dtype!r})))
run(0, 64, logits, *inputs, scratch, np.zeros(2))
"""
    remarks = run_python(code, FASTSOFTMAX_CACHE_DIR=str(tmp_path))
    assert remarks.count("vectorized loop") >= 10
    assert "loop not vectorized" not in remarks
