"""The step-time law against measurements: rows, the client that made them, the fit, its error."""
