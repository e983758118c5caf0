"""The nouns that every layer speaks."""
