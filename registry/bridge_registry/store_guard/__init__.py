"""The store guard: what stands between nodes and etcd, a process of its own beside etcd.

Nodes speak etcd's own API to it; it forwards what a node needs to keep its instances registered, and
nothing else. etcd accepts registries and guards alone (see docs/adr/store-guard.md).
"""
