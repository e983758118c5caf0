"""What helps against each loss: one sentence for whoever must act, with the command where there is one."""

from __future__ import annotations

from wattmill.app.efficiency.spec import Lost

LEVERS: dict[Lost, str] = {
    "down": "keep it up: `wattmill status` says what went down; a second place keeps its models served",
    "idle": "give it more to do: batches in the quiet hours (docs/how-to/batches.md), or route more to it",
    "over-provisioned": "switch it off while nobody asks, or scale it down; its hour is paid all the same",
    "queue": "let requests go sooner: more `slots`, or a smaller `reserved` share of higher tiers",
    "network": "send the next request before the last has ended: more `slots`; or move the place nearer",
    "padding": "let the engine capture more batch sizes",
    "shallow batch": "more requests at once: fewer places for the same load, or the batch lane beside it",
    "late": "a faster place for that tier, fewer at once, or a promise that can be kept",
    "failed": "`wattmill explain REQUEST` of one of them says what broke",
    "aborted": "clients left: shorter answers (`max_tokens`), or a first token that comes sooner",
    "retried": "what was sent again or hedged: mend the place that failed, hedge later",
    "rejected": "tell which answers were accepted, then it can be counted",
    "conversion": "a chain with fewer or better loaded stages: `wattmill site chain`",
    "cooling": "warmer water, a closer approach: `wattmill site water`",
    "idle power": "fewer machines that wait, or ones that draw less while they do",
    "unattributed": "a meter nearer to the engines: `wattmill doctor` lists those of this machine",
    "service": "what the factory itself does while nobody asks",
    "foreign": "move what else runs on this host elsewhere",
    "wasted joules": "the same as for late, failed, aborted and retried work",
}
