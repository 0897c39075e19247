"""A day of traffic over virtual nodes, decided by the product's own routing, admission and autoscaler."""
