"""The command line: one command answers one question of one person."""
