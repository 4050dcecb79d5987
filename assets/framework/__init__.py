"""The declaration, version, storage, retries, partitions and metadata of assets: the same for every stage."""
