"""Doors: other protocols in front of the same kitchen.

A door reads a request of its protocol and writes it down as a chat completion; everything between (caps,
routing, engines, books) knows chat only. On the way back it tells the chat answer in its own words: events,
whole answers, errors. Nothing here touches the network, a clock or a random source.

Where an engine speaks the door's protocol itself (`Adapter.natives`), the client's own body is sent on, with
the governed fields set, and the engine's events pass unchanged; the books read the same events as chat.
"""
