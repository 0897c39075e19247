"""Probes: whether an engine, and each model it has loaded, still does its work."""
