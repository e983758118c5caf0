"""What people are shown: figures, requests and proofs, read from the books and the running processes."""
