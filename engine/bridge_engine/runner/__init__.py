"""Processes that hold one loaded model each, and who gets to use them."""
