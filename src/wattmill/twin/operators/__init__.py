"""Operator tables of another project as a prior for what has no end-to-end rows: an extra, off by default."""
