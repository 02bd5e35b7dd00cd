"""The one place that calls ``numba.njit``: compiler flags with their reasons.

Decorators for the kernels (``ARCHITECTURE.md`` has the picture):

`block_kernel`, `exact_kernel`
    One block of rows. Only compiled code calls them.
`driver`
    A plain ``range`` over units of work (blocks, chunks), compiled once for each dtype. Threads
    call the same machine code (`launch`), so that a result has the same bits however it runs.

Conventions of every kernel: inputs are read-only C-order base-class arrays of one float dtype
(see `kernel_view`), outputs and scratch come last and are allocated by the caller, nothing is
raised (statuses are written into arrays), and nothing reads a mutable global.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba import _dynfunc, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import NativeLowering
from numba.extending import intrinsic, overload

from fastsoftmax._cache import KernelCache

#: An array in compiled code: one float or int dtype, C order. The type checker need not look.
Array = Any

Function = TypeVar("Function", bound=Callable[..., Any])

#: Reassociation lets LLVM vectorise sums, contraction gives fused multiply-adds. Never `nnan` or
#: `ninf`: with them the test "is this loss finite?" is deleted and a NaN passes for an answer.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

#: `nogil`: a serial kernel would otherwise stop every other thread for the length of the call.
#: `error_model="numpy"`: a division by zero gives inf, as in NumPy, not a branch that raises.
_FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


class _CalleeLibrary(JITCodeLibrary):
    """The LLVM module of a function that only compiled code calls: text to link, no machine code.

    A caller's library inlines and optimises what it links once more; what was done before is
    lost time, two thirds of it at four levels of calls.
    """

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _CalleeCompiler(Compiler):
    def define_pipelines(self) -> Any:
        codegen = self.state.targetctx.codegen()
        self.state.library = _CalleeLibrary(codegen, self.state.func_id.func_qualname)
        self.state.flags.no_compile = True
        pipelines = super().define_pipelines()
        for passes in pipelines:
            passes.add_pass_after(_RegisterCallee, NativeLowering)
            passes.finalize()
        return pipelines


@register_pass(mutates_CFG=True, analysis_only=False)
class _RegisterCallee(LoweringPass):
    """Make a function known to its callers, as `NativeLowering` does if there is machine code."""

    _name = "fastsoftmax_register_callee"

    def __init__(self) -> None:  # abstract in Numba's class
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        function, environment = state.cr.fndesc, state.cr.env
        null, keep_alive = 0, (state.library,)
        entry = _dynfunc.make_function(
            function.lookup_module(), function.qualname, "", null, environment, keep_alive
        )
        state.targetctx.insert_user_function(entry, function, [state.library])
        state.cr = state.cr._replace(cfunc=entry)
        return True


#: Functions that only compiled code may call: from Python, a call would end the process.
_CALLEE_FLAGS = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _CalleeCompiler,
    "forceinline": True,
    "_nrt": False,
    **_FLAGS,
}


def block_kernel(function: Function) -> Function:
    """Compile a block function: serial, with `FASTMATH`; never cached by itself.

    Only compiled code may call it.
    """
    return numba.njit(fastmath=FASTMATH, **_CALLEE_FLAGS)(function)


def scalar_kernel(function: Function) -> Function:
    """Compile a function whose speed matters less, and leave it to LLVM where to inline it.

    The solver's 13 functions then compile in 4 s; inlined everywhere, in 100.
    """
    flags = {**_CALLEE_FLAGS, "forceinline": False}
    return numba.njit(fastmath=FASTMATH, **flags)(function)


def exact_kernel(function: Function) -> Function:
    """Compile a function whose order of operations matters (error-free transformations).

    Only contraction is allowed; LLVM keeps the flag per instruction, also after inlining.
    """
    return numba.njit(fastmath={"contract"}, **_CALLEE_FLAGS)(function)


def compiled_as(function: Callable[..., Any]) -> Callable[[Function], Function]:
    """Register what replaces a plain function in compiled code, as `numba.extending.overload`."""
    decorate: Callable[[Function], Function] = overload(
        function,
        jit_options=_CALLEE_FLAGS,
        strict=False,  # the strict check cannot read annotations
    )
    return decorate


def driver(function: Function) -> Function:
    """Compile and cache a driver ``f(first, last, ...)`` that loops over units of work."""
    return _cached(numba.njit(**_FLAGS)(function))


def machine_code(driver: Any, arguments: tuple[Any, ...]) -> int | None:
    """Return the address of a driver compiled for the types of ``(0, 1, *arguments)``.

    None where nothing is compiled (``NUMBA_DISABLE_JIT``). Valid as long as the driver lives.
    """
    if not hasattr(driver, "overloads"):
        return None
    # Asking Numba for the types takes 0.2 ms, as long as a pass over a small X.
    kinds = (driver, *map(_kind, arguments))
    address = _addresses.get(kinds)
    if address is None:
        signature = tuple(driver.typeof_pyval(argument) for argument in (0, 1, *arguments))
        if signature not in driver.overloads:
            driver.compile(signature)
        compiled = driver.overloads[signature]
        address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        _addresses[kinds] = address
    return address


_addresses: dict[tuple[Any, ...], int] = {}


def _kind(argument: Any) -> Any:
    """Return what tells the Numba types of arguments apart."""
    if isinstance(argument, np.ndarray):
        return type(argument), argument.dtype, argument.ndim, argument.flags.num
    if type(argument) in (int, float, bool):
        return type(argument)
    return numba.typeof(argument)


@intrinsic
def call(typingctx: Any, address: Any, first: Any, last: Any, arguments: Any) -> Any:
    """Call a driver at an address, ``f(first, last, *arguments)``; errors are not looked for."""
    kinds = (types.int64, types.int64, *arguments)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = context.call_conv.get_function_type(types.none, kinds)
        function = builder.inttoptr(values[0], kind.as_pointer())
        items = [builder.extract_value(values[3], p) for p in range(len(arguments))]
        context.call_conv.call_function(
            builder, function, types.none, kinds, [values[1], values[2], *items]
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, arguments), codegen


def _launch(n_units: int, address: int, arguments: tuple[Any, ...]) -> None:
    """Run the driver at `address` over units ``0 .. n_units - 1`` in Numba's threads.

    The threads call machine code that is there already. A `prange` in every driver would have
    LLVM compile each kernel three times more, 5 s of a first fit.
    """
    for unit in numba.prange(n_units):
        call(address, np.int64(unit), np.int64(unit) + 1, arguments)


def kernel_view(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `array` as a kernel takes its inputs: a read-only base-class view in C order.

    Writable, read-only and memory-mapped arrays then share one compilation. Copies only an
    array that is not C-contiguous, or not aligned: Numba does not ask, and compiles loads that
    take alignment for granted.
    """
    view = np.ascontiguousarray(array).view(np.ndarray)
    if not view.flags.aligned:
        view = view.copy()
    view.flags.writeable = False
    return view


def _cached(dispatcher: Any) -> Any:
    if hasattr(dispatcher, "_cache"):  # a plain function under NUMBA_DISABLE_JIT
        dispatcher._cache = KernelCache(dispatcher.py_func, dispatcher.targetoptions)
    return dispatcher


#: ``launch(n_units, address, arguments)``, see `_launch`. Compiled once for each combination of
#: types, in 0.3 s.
launch = _cached(numba.njit(parallel=True, **_FLAGS)(_launch))
