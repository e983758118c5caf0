"""What may leave, and in which form: patterns, redaction and what they say of a request. Pure."""
