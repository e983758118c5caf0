"""Layer 5, distribution: tenants, keys and the gateway that every token passes."""
