"""Response generation: local models, servers and batch files."""
