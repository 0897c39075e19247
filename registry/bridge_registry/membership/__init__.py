"""Leases and node records, reduced to the table of members that snapshots are built from."""
