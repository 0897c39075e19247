"""Which pod Kubernetes takes when a HorizontalPodAutoscaler goes inwards: the cheapest one."""
