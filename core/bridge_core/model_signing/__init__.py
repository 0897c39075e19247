"""Signatures of models: OpenSSF Model Signing's bundles, over the models that Ollama's store has."""
