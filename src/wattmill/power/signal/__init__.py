"""Power as a signal: limits and grid events, what they ask for and what is done about them."""
