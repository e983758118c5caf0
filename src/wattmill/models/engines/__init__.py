"""One engine, one file: it turns their words into ours."""
