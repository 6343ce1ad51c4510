"""From loads to a replication plan."""
