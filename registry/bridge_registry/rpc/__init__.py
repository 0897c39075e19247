"""The registry's gRPC services and the TLS listener in front of them."""
