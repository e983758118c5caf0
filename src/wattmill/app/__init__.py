"""The composition root: the only place that knows both the policies and the world."""
