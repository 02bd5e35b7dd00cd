"""The decorators of `fastsoftmax._jit`; its cache is the subject of `test_cache.py`."""

from __future__ import annotations

import json
import platform

import numba
import numpy as np
import pytest
from child import run_python

from fastsoftmax import _jit
from fastsoftmax._jit import kernel_view

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="nothing is compiled, so nothing has flags"
)


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
