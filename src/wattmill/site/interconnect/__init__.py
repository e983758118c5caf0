"""Links between accelerators: how far copper reaches, what optics take, and what that does to a step."""
