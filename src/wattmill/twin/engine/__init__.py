"""One engine, simulated: continuous batching over paged memory, compiled, exact to the picosecond.

`spec` says what a step costs and what an engine may hold, `defaults` how engines are shipped, `policy` which
rules make an engine's scheduler, `core` and its neighbours play it (numba), `experiment` runs a whole trace
and `live` lets a policy outside decide request by request. numba comes with `pip install wattmill[twin]`.
"""
