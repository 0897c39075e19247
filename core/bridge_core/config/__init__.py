"""mesh_config: the documents that admins write, checked whole, and what they become."""

from bridge_core.config.convert import mesh_settings, node_class, route
from bridge_core.config.documents import (
    API_VERSION,
    Document,
    Fault,
    Kind,
    MeshSpec,
    ModelRouteSpec,
    NodeClassSpec,
)
from bridge_core.config.loader import LoadedDocuments, load, own_node_class
from bridge_core.config.yaml_lines import decoded

__all__ = [
    "API_VERSION",
    "Document",
    "Fault",
    "Kind",
    "LoadedDocuments",
    "MeshSpec",
    "ModelRouteSpec",
    "NodeClassSpec",
    "decoded",
    "load",
    "mesh_settings",
    "node_class",
    "own_node_class",
    "route",
]
