"""gRPC at the edge of the one pipeline: requests become HTTP in the engine's shape, answers protobuf."""
