"""Snapshots: built from members, nodes and config, versioned, and streamed to agents."""
