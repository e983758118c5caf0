"""Sun on a roof or a field: watts of a photovoltaic plant, hour by hour."""
