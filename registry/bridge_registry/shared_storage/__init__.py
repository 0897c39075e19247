"""Leases of those who write models into storage that several nodes share."""
