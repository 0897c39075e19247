"""Model templates: Go's text/template as Ollama uses it, and what a model writes by them."""
