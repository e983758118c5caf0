"""Layer 2, site: how watts reach the chips, how heat leaves them, and what a place can hold."""
