"""What happened at this node, on record: a log that neither this node nor the registry can rewrite alone."""
