"""Models on this node's disk: fetched from the mesh's nodes, each byte from outside only once."""
