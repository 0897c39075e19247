"""Inbound: the listeners' one HTTP pipeline, its route table and its adapters."""
