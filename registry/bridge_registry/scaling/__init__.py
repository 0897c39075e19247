"""On how many instances models are in memory: decided from slots and queues, by AutoscalePolicy."""
