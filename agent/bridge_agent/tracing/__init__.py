"""Traces: a span for each request at each node that it passed, made after the answer, for a collector."""
