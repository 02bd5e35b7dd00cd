"""A few words of vector code, for kernels whose registers we choose ourselves.

Numba has no vector type, and what LLVM makes of a scalar loop over a register tile ran at half to
nine tenths of the speed of these vectors, the less the fewer features. So
`fastsoftmax._kernels.tiles` writes its innermost loops as LLVM IR, with these words. A vector is as
wide as the CPU that Numba compiles for (`NUMBA_CPU_NAME` counts).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsoftmax._jit import Array, compiled_as

INT32, INT64 = ir.IntType(32), ir.IntType(64)
# Values and builders of llvmlite have no types of their own.
Builder = Any
Value = Any


class Registers(NamedTuple):
    """The vector registers of a CPU."""

    n_bytes: int  # of one register
    n_registers: int


@functools.cache
def _registers(cpu: str, features: str) -> Registers:
    """Return what LLVM uses for 64 bytes of float64 on a CPU, read off its own assembly."""
    probe = (
        "define void @probe(ptr %p) {\n"
        "  %x = load <8 x double>, ptr %p, align 8\n"
        "  %y = fadd <8 x double> %x, %x\n"
        "  store <8 x double> %y, ptr %p, align 8\n"
        "  ret void\n}\n"
    )
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(cpu=cpu, features=features, opt=2)
    assembly = machine.emit_assembly(binding.parse_assembly(probe))
    if "%zmm" in assembly:
        return Registers(64, 32)
    if "%ymm" in assembly:
        return Registers(32, 16)
    return Registers(16, 16 if "%xmm" in assembly else 32)


def registers(context: Any) -> Registers:
    """Return the vector registers of the CPU that a Numba target context compiles for."""
    _triple, cpu, features = context.codegen().magic_tuple()
    return _registers(cpu, features)


def target_constant(
    function: Callable[[Array], int], value: Callable[[Registers, int], int]
) -> None:
    """Let compiled calls of ``function(array)`` be a constant that depends on the CPU.

    Parameters
    ----------
    function : callable
        What runs under ``NUMBA_DISABLE_JIT``.
    value : callable
        ``value(registers, itemsize)`` in compiled code.
    """

    @intrinsic
    def constant(typingctx: Any, array: Any) -> Any:
        def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Value:
            return integer(value(registers(context), array.dtype.bitwidth // 8))

        return types.int64(array), codegen

    @compiled_as(function)
    def overloaded(array: Any) -> Any:
        return lambda array: constant(array)


def vector_lanes(array: Array) -> int:
    """Return how many elements of an array make a vector."""
    return 64 // int(array.itemsize)


target_constant(vector_lanes, lambda registers, itemsize: registers.n_bytes // itemsize)


def prefetch(array: Array, row: int, column: int) -> None:
    """Ask for the cache line of an element, which need not exist."""


@intrinsic
def _prefetch(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Value:
        vectors = Vectors(context, builder, array.dtype)
        place = context.make_array(signature.args[0])(context, builder, args[0])
        vectors.prefetch(vectors.address(place, args[1], args[2]))
        return context.get_dummy_value()

    return types.void(array, row, column), codegen


@compiled_as(prefetch)
def _overload_prefetch(array: Any, row: Any, column: Any) -> Any:
    return lambda array, row, column: _prefetch(array, row, column)


class Vectors:
    """Vectors of one float dtype in the function that `builder` is building.

    As wide as the CPU's registers, or `n_bytes`.
    """

    def __init__(
        self, context: Any, builder: Builder, dtype: Any, n_bytes: int | None = None
    ) -> None:
        self.builder = builder
        self.element = context.get_value_type(dtype)
        self.itemsize = dtype.bitwidth // 8
        self.lanes = (n_bytes or registers(context).n_bytes) // self.itemsize
        self.type = ir.VectorType(self.element, self.lanes)

    def address(self, array: Any, row: Value, column: Value) -> Value:
        """Return the address, an integer, of an element in a row of an array with two axes."""
        stride = cgutils.unpack_tuple(self.builder, array.strides)[0]
        base = self.builder.ptrtoint(array.data, INT64)
        return self.shift(self.builder.add(base, self.builder.mul(row, stride)), column)

    def shift(self, address: Value, n_elements: Value) -> Value:
        """Return the address `n_elements` elements further on."""
        offset = self.builder.mul(n_elements, integer(self.itemsize))
        return self.builder.add(address, offset)

    def load(self, address: Value, mask: Value | None = None) -> Value:
        """Return the vector at an address, with zeros where `mask` is given and false."""
        pointer = self.builder.inttoptr(address, self.type.as_pointer())
        if mask is None:
            return self.builder.load(pointer, align=self.itemsize)
        arguments = [pointer, ir.Constant(INT32, self.itemsize), mask, self.zero]
        return self._call("masked.load", f"{self._suffix}.p0", arguments)

    def prefetch(self, address: Value) -> None:
        """Ask for the cache line at an address, which need not exist, in the second-level cache."""
        pointer = self.builder.inttoptr(address, self.element.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        for_reading, second_level, data = (ir.Constant(INT32, n) for n in (0, 2, 1))
        self.builder.call(function, [pointer, for_reading, second_level, data])

    def store(self, value: Value, address: Value) -> None:
        """Write a vector, of any length."""
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        self.builder.store(value, pointer, align=self.itemsize)

    def broadcast(self, address: Value, lanes: int | None = None) -> Value:
        """Return a vector whose lanes all hold the element at an address."""
        element = self.builder.load(self.builder.inttoptr(address, self.element.as_pointer()))
        return self.splat(element, lanes)

    def splat_widened(self, number: Value) -> Value:
        """Return a vector of float64 from a number of either dtype."""
        if number.type != self.element:
            number = self.builder.fpext(number, self.element)
        return self.splat(number)

    def splat(self, element: Value, lanes: int | None = None) -> Value:
        """Return a vector whose lanes all hold a number."""
        return _splat(self.builder, element, lanes or self.lanes)

    def multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        """Return ``a * b + c``, fused where the CPU can."""
        return self._call("fmuladd", self._suffix, [a, b, c])

    def first_lanes(self, n: Value) -> Value:
        """Return the mask of the first `n` lanes."""
        index = ir.VectorType(INT64, self.lanes)
        count = _splat(self.builder, n, self.lanes)
        return self.builder.icmp_signed("<", ir.Constant(index, list(range(self.lanes))), count)

    @property
    def zero(self) -> Value:
        """A vector of zeros."""
        return ir.Constant(self.type, None)

    def four_sums(self, vectors: Sequence[Value]) -> Value:
        """Return the sums over the lanes of four vectors, as one vector of 4 lanes.

        Two rounds add pairs of vectors whose lanes are interleaved; then halves are added.
        """
        a, b, c, d = vectors
        ab, cd = self._interleaved_sum(a, b, 1), self._interleaved_sum(c, d, 1)
        if self.lanes == 2:
            return _shuffle(self.builder, ab, cd, [0, 1, 2, 3])
        sums = self._interleaved_sum(ab, cd, 2)
        lanes = self.lanes
        while lanes > 4:
            lanes //= 2
            low = _shuffle(self.builder, sums, sums, range(lanes))
            high = _shuffle(self.builder, sums, sums, range(lanes, 2 * lanes))
            sums = self.builder.fadd(low, high)
        return sums

    def _interleaved_sum(self, a: Value, b: Value, width: int) -> Value:
        """Return [a0 + a1, b1 + b0, a2 + a3, ...], each a run of `width` lanes of a or b.

        Every lane of the first summand stays where it was, which takes no shuffle.
        """
        stay, swap = list[int](), list[int]()
        for start in range(0, self.lanes, 2 * width):
            in_a = list(range(start, start + 2 * width))
            in_b = [self.lanes + lane for lane in in_a]
            stay += in_a[:width] + in_b[width:]
            swap += in_a[width:] + in_b[:width]
        return self.builder.fadd(
            _shuffle(self.builder, a, b, stay), _shuffle(self.builder, a, b, swap)
        )

    @property
    def _suffix(self) -> str:
        return f"v{self.lanes}f{8 * self.itemsize}"

    def _call(self, name: str, suffix: str, arguments: list[Value]) -> Value:
        """Call an intrinsic of LLVM that returns a vector."""
        kind = ir.FunctionType(self.type, [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(
            self.builder.module, kind, f"llvm.{name}.{suffix}"
        )
        return self.builder.call(function, arguments)


class Accumulators:
    """A table of vectors that a loop adds to; LLVM keeps them in registers."""

    def __init__(self, vectors: Vectors, values: Sequence[Sequence[Value]]) -> None:
        self._vectors = vectors
        builder = vectors.builder
        self._slots = [[cgutils.alloca_once_value(builder, v) for v in row] for row in values]

    def add_product(self, row: int, column: int, a: Value, b: Value) -> None:
        """Add ``a * b`` to one of them."""
        slot = self._slots[row][column]
        builder = self._vectors.builder
        builder.store(self._vectors.multiply_add(a, b, builder.load(slot)), slot)

    def row(self, row: int) -> list[Value]:
        """Return the values of one row."""
        return [self._vectors.builder.load(slot) for slot in self._slots[row]]


@contextmanager
def plain_loop(builder: Builder, start: Value, stop: Value, step: Value) -> Iterator[Value]:
    """Build ``for index in range(start, stop, step)``, a loop that LLVM leaves as it stands.

    Unrolled once more, the tiles were no faster and took three times as long to compile.
    """
    entry = builder.block
    body, end = builder.append_basic_block("loop"), builder.append_basic_block("loop.end")
    builder.cbranch(builder.icmp_signed("<", start, stop), body, end)
    builder.position_at_end(body)
    index = builder.phi(INT64)
    index.add_incoming(start, entry)
    yield index
    following = builder.add(index, step)
    index.add_incoming(following, builder.block)
    branch = builder.cbranch(builder.icmp_signed("<", following, stop), body, end)
    name = "llvm.loop.unroll.disable"
    advice = builder.module.add_metadata([ir.MetaDataString(builder.module, name)])
    loop = builder.module.add_metadata([advice, integer(len(builder.module.metadata))])
    loop.operands = (loop, advice)  # LLVM wants a loop's metadata to begin with itself
    branch.set_metadata("llvm.loop", loop)
    builder.position_at_end(end)


def cases(
    builder: Builder, value: Value, keys: Sequence[int], build: Callable[[int], None]
) -> None:
    """Build a switch: what ``build(key)`` builds runs where ``value == key``."""
    end = builder.append_basic_block("end")
    switch = builder.switch(value, end)
    for key in keys:
        block = builder.append_basic_block(f"case{key}")
        switch.add_case(integer(key), block)
        builder.position_at_end(block)
        build(key)
        builder.branch(end)
    builder.position_at_end(end)


def integer(n: int) -> Value:
    """Return a constant of 64 bits."""
    return ir.Constant(INT64, n)


def _shuffle(builder: Builder, a: Value, b: Value, lanes: Sequence[int]) -> Value:
    kind = ir.VectorType(INT32, len(lanes))
    return builder.shuffle_vector(a, b, ir.Constant(kind, list(lanes)))


def _splat(builder: Builder, value: Value, lanes: int) -> Value:
    blank = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(blank, value, ir.Constant(INT32, 0))
    return _shuffle(builder, one, blank, [0] * lanes)
