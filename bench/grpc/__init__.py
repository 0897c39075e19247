"""gRPC: the agent's listener beside a bare grpc.aio relay and Envoy."""
