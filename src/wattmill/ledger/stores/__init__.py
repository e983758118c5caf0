"""Where postings are kept."""
