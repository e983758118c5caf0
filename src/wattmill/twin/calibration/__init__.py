"""An engine that runs, measured and fitted: how far the twin is off, said beside what it predicts.

`sweep` asks a live OpenAI-compatible endpoint a fixed trace, `fit` finds the step cost with which the
compiled engine behaves as it did, `spec` is what is kept of it, `compare` holds predicted against measured.
"""
