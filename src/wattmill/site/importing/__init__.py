"""Tables of others, made into the tables that a site reads."""
