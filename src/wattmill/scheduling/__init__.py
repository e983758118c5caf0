"""Layer 6, scheduling: pure policies that say where a request goes, and why."""
