"""Protobuf messages and stubs of the Bridge."""
