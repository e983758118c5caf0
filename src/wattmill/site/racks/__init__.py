"""Racks in a hall: what each may draw, what water it needs, what it weighs, and what that leaves unused."""
