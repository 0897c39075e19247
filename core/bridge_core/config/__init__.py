"""mesh_config: the documents that admins write, checked whole, and what they become."""

from bridge_core.config.convert import (
    access_policy,
    identity_provider,
    mesh_settings,
    node_class,
    quota,
    route,
    signature_policy,
)
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
    "access_policy",
    "decoded",
    "identity_provider",
    "load",
    "mesh_settings",
    "node_class",
    "own_node_class",
    "quota",
    "route",
    "signature_policy",
]
