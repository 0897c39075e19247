"""The mesh's store: an etcd that is not trusted to be there."""
