"""The agent's own page: how this node is, for who is on its machine."""
