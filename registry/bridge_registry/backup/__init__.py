"""The whole control plane in one sealed file: the CA and its keys, and all that the store holds of the mesh.

`backup_rules` is the format, `taking` reads what goes into it, `placing` puts it into a state folder that
has none. What the registry then does with a store that came back empty is in `bridge_registry.restore`.
"""
