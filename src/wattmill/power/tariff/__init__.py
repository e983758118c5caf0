"""What electricity costs: energy by the hour, power by its peak, and what has to be taken in any case."""
