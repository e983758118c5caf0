"""What a factory is declared to be: the file, its faults, and the plan that follows from it."""
