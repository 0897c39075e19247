"""Kubernetes' external metrics API over what the autoscaler wants: a program beside the registries."""
