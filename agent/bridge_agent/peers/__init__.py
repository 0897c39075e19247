"""Pooled mutual-TLS links to the other agents of the mesh."""
