"""Small sites near their users against one large one: latency, dollars, grams, heat, and what binds."""
