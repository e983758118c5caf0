"""Gates of the data plane: what every request passes between being understood and being routed."""
