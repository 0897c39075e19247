"""Stubs of etcd's public v3 API, generated from the part of it that the Bridge speaks."""
