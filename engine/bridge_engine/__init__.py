"""The embedded engine: Ollama's HTTP API over llama.cpp, on Ollama's on-disk store."""
