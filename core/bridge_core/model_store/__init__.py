"""Ollama's model store on disk: manifests, blobs, and the headers of GGUF files."""
