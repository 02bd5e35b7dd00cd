"""What a compiled solver needs to evaluate the sums of a dense design by itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs.base import Array, Float64Array
from fastsoftmax._designs.dense import DenseDesign
from fastsoftmax._designs.partition import accumulators, lanes_of_block
from fastsoftmax._jit import kernel_view, machine_code
from fastsoftmax._kernels import dense as kernels
from fastsoftmax._kernels import gram as gram_kernels
from fastsoftmax._kernels.lanes import N_LANE_ROWS
from fastsoftmax._kernels.tiles import padded_zeros


class CompiledSums(NamedTuple):
    """Drivers and their arguments, as `fastsoftmax._kernels.solver.minimize` takes them first."""

    addresses: NDArray[np.int64]
    loss_arguments: tuple[Any, ...]
    probability_arguments: tuple[Any, ...]
    gram_arguments: tuple[Any, ...]
    n_blocks: int
    params: Array
    sums: Float64Array
    partial: Array
    losses: Float64Array
    residual: Array
    curvatures: Float64Array
    grams: Float64Array
    weights: Array


def compiled_sums(design: DenseDesign, n_rows: int, centre: Float64Array) -> CompiledSums:
    """Return what a compiled solver needs to evaluate sums by itself."""
    size, n = design.n_features + 1, design.n_samples
    n_lanes = lanes_of_block(design.n_features, n_rows, design.dtype.itemsize)
    n_blocks = -(-n // n_lanes)
    params = padded_zeros((n_rows, size), design.dtype)
    sums, partial = accumulators(1, n_rows, design.n_features, design.dtype)
    losses, model = np.zeros(1), (design.X, kernel_view(params))
    lanes = np.empty((n_blocks, N_LANE_ROWS, n_lanes), design.dtype)
    loss = (
        *(*model, design.labels, design.soft, design.weights, design.offset),
        np.array([n_blocks * n_lanes, 0, n_blocks * n_lanes]),
        *(np.empty((1, n_rows, n_lanes), design.dtype), lanes[:1], losses, partial, sums),
    )
    residual = np.empty((n_blocks, n_rows, n_lanes), design.dtype)
    # Residuals for targets that are 0 throughout are probabilities.
    no_labels, no_weights = np.empty(0, np.int32), np.empty(0, design.dtype)
    probability = (
        *(*model, kernel_view(no_labels)),
        kernel_view(np.zeros((n, max(2, n_rows)), design.dtype)),
        *(kernel_view(no_weights), design.offset, np.array([n_lanes, 0, n_lanes])),
        *(residual, lanes, np.zeros(n_blocks), partial[:0], sums[:0]),
    )
    curvatures = np.empty((n_rows, n))
    grams = padded_zeros((n_rows, size, size), np.dtype(np.float64))
    rows = [padded_zeros((n_rows, 64, size), np.dtype(np.float64)) for _ in range(2)]
    origin = kernel_view(centre.astype(design.dtype))
    gram = (design.X, origin, kernel_view(curvatures), 1, *rows, grams)
    addresses = (
        machine_code(kernels.loss_gradient, loss),
        machine_code(gram_kernels.weighted_grams, gram),
    )
    return CompiledSums(
        np.array(addresses),
        *(loss, probability, gram, n_blocks),
        *(params, sums, partial, losses, residual, curvatures, grams, design.weights),
    )
