"""The applied mesh_config: revisions, differences, rollback, and the folder that is watched."""
