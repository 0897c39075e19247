"""Rollouts: a state machine, what it does to routes, and the loop that feeds it."""
