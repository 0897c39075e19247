"""Which storage a section names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bridge_agent.models.shared.folder import FolderStorage
from bridge_agent.models.shared.s3.client import S3Client
from bridge_agent.models.shared.s3.settings import SettingsFile
from bridge_agent.models.shared.s3.storage import S3Storage
from bridge_agent.models.shared.section import SharedSection
from bridge_agent.models.shared.storage import Storage


def storage_of(section: SharedSection, environment: Mapping[str, str]) -> Storage:
    """The folder, or the bucket; nothing is read there yet.

    Args:
        section: Names it.
        environment: Of this process: where systemd puts credentials.
    """
    if section.s3:
        return S3Storage(S3Client(SettingsFile(section.s3, environment), section.timeout_s))
    return FolderStorage(Path(section.path))
