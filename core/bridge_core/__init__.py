"""What the agent and the registry share: ring, snapshot, configuration, identity, store, wire."""
