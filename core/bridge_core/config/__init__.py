"""mesh_config: the documents that admins write, checked whole, and what they become."""

from bridge_core.config.convert import mesh_settings, route
from bridge_core.config.documents import API_VERSION, Document, Fault, Kind, MeshSpec, ModelRouteSpec
from bridge_core.config.loader import Loaded, load

__all__ = [
    "API_VERSION",
    "Document",
    "Fault",
    "Kind",
    "Loaded",
    "MeshSpec",
    "ModelRouteSpec",
    "load",
    "mesh_settings",
    "route",
]
