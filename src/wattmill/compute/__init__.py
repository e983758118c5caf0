"""Layer 3: what an accelerator can do, and what it draws."""
