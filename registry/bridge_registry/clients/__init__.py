"""Clients of the mesh and its admins: made, changed, ended; and the pepper of their keys."""
