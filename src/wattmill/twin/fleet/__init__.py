"""A declared factory on a simulated clock: the gateway's own objects decide, reserve, write down and book.

What is simulated is the world outside of the gateway: clients (`demand`), engines and providers (`engines`,
`provider`), the machines under them that start, fail and draw power (`pool`), and the clock (`timers`).
"""
