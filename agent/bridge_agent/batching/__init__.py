"""Embedding requests that wait for one slot, asked of their engine together."""
