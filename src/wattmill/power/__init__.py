"""Layer 1, power: what a machine draws, and the meters that say so."""
