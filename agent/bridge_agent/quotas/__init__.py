"""What callers may use: quotas at the entry node, leased from the registry, and their usage."""
