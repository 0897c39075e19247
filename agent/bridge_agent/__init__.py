"""The sidecar agent."""
