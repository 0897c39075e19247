"""Shared storage (a mounted folder, an S3-compatible bucket) as a tier of models below this node's disk."""
