"""What the doors keep, and the paths beside them: stored responses, and counting without asking."""
