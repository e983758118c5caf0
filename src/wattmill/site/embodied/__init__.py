"""Carbon that was emitted before the first watt: what a site is built of, spread over its life."""
