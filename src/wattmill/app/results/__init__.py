"""What long commands found, kept in the factory's folder, so that the board can show it long after."""
