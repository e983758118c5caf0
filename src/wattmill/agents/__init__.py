"""Layer 7: agents under a budget, and what tells that one of them runs away."""
