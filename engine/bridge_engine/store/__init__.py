"""Ollama's on-disk store: manifests, blobs, and what is in them."""
