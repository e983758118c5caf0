"""The operating system of a token factory: one record from watt to value."""

__version__ = "0.1.0"
