"""Device meshes, sharding rules, multi-host coordination, chip specifications and FLOP formulas."""
