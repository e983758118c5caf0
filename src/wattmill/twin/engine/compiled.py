"""How the core is compiled: once, kept on disk, and never from older source than what is there.

numba keeps compiled code by the file of the outermost function only: a change in a file that it calls would
go unseen. So each outermost function is a closure over `SOURCE`, a mark of all files of this package, which
is part of the key under which it is kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

try:
    from numba import njit, types
    from numba.core import cgutils, config
    from numba.extending import intrinsic
    from numba.np.arrayobj import populate_array
except ModuleNotFoundError as missing:  # pragma: no cover - the developers' lock has it
    raise ModuleNotFoundError(
        "simulating an engine needs numba, which is not installed: pip install 'wattmill[twin]'", name="numba"
    ) from missing

F = TypeVar("F", bound=Callable[..., object])

Array = npt.NDArray[np.int64]


# Half the compile time of numba's own level, 3, and no slower: what runs here is loads, stores and branches.
config.OPT = type(config.OPT)(1)

# No function here allocates memory, so none needs numba's reference counting, which costs three quarters of
# the time; and only Python's entry points need a wrapper for Python, which costs a third of the compile time.
_OPTIONS = {"error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}


def inner(function: F) -> F:
    """Compile `function` into those that call it; Python cannot."""
    return cast(F, njit(no_cpython_wrapper=True, **_OPTIONS)(function))


def inlined(function: F) -> F:
    """Write `function` into those that call it: a call with all of the core's memory costs some 10 ns, which
    shows where it happens in each step."""
    return cast(F, njit(no_cpython_wrapper=True, inline="always", **_OPTIONS)(function))


def outer(function: F) -> F:
    """Compile `function`, which must use `SOURCE` from an enclosing scope, and keep the result on disk."""
    return cast(F, njit(cache=True, **_OPTIONS)(function))


@intrinsic  # type: ignore[untyped-decorator]
def array_at(typing: Any, address: Any, shape: Any) -> Any:
    """Return the whole numbers at `address` as an array, for compiled code. Whoever owns them must outlive
    it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.return_type)(context, builder)
        sizes = cgutils.unpack_tuple(builder, args[1], shape.count)
        number_bytes = context.get_constant(types.intp, np.dtype(np.int64).itemsize)
        strides = [number_bytes]
        for size in sizes[:0:-1]:
            strides.insert(0, builder.mul(strides[0], size))
        populate_array(
            array,
            data=builder.inttoptr(args[0], array.data.type),
            shape=cgutils.pack_array(builder, sizes),
            strides=cgutils.pack_array(builder, strides),
            itemsize=number_bytes,
            meminfo=None,
        )
        return array._getvalue()

    return types.Array(types.int64, shape.count, "C")(types.int64, shape), generate


def _source() -> int:
    mark = 0
    for path in sorted(Path(__file__).parent.glob("*.py")):
        mark = zlib.crc32(path.read_bytes(), mark)
    return mark


SOURCE = _source()
