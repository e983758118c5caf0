"""The twin: the gateway's own policies on simulated places and a simulated clock.

Nothing here touches the world, and the gateway's process never imports it. `spec` says what a simulated place
and a piece of work are, `model` is the service law with its closed forms, `place` plays it event by event,
`factory` sends a trace through a policy, `bound` says what no schedule can beat.
"""
