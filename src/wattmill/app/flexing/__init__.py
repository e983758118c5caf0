"""Power limits in the live factory: taken in, obeyed, and accounted for."""
