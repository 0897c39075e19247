"""Loads of models into memory, held by the agent and not by the clients that wait for them."""
