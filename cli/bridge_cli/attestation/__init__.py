"""Trusted execution: what a quote of SGX or TDX proves, and whether a mesh takes that for enough."""
