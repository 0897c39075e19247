"""Shared storage (CephFS, NFS, a mounted RBD image) as a tier of models below this node's disk."""
