"""How an asset is declared, versioned, stored, retried, partitioned and described: the same for every stage."""
