"""What a site does with its watts, hour by hour: buy, store, sell, and run deferrable work when it pays."""
