"""Who calls: certificates, API keys and tokens made into principals."""
