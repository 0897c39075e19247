"""This node's part in scaling models: it counts what they are asked and loads or unloads them."""
