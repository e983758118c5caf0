"""The board: one page that shows the factory from watts to value."""
