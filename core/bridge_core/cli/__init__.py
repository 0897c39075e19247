"""The command `bridge`: a mesh on this machine, and what an admin asks of a registry."""
