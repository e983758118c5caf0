"""Published PUE figures, and what the same plant and chain equations say of their designs."""
