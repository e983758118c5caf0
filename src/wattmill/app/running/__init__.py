"""The factory alive on one machine: processes, locks, state, samples."""
