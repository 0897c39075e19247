"""Who may be in the mesh: the CA, join tokens, certificates, revocation, access to etcd."""
