"""From the grid to the chip: stages that convert power, each with its losses at the load it really has."""
