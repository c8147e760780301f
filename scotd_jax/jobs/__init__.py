"""What runs: one file per job. Each reads artefacts, calls the library, writes artefacts."""
