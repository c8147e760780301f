"""Where it runs: mesh and sharding rules."""
