"""The command `bridgectl`: a mesh on this machine, and what an admin asks of a registry."""
