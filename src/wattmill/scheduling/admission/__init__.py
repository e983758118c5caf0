"""Who may go now, who waits and who is told to come back: bounded queues by tier, fair inside a tier."""
