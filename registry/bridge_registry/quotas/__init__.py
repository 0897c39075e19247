"""What the nodes of the mesh may use of quotas together, and what was used: the registry's side."""
