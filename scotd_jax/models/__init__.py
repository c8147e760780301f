"""T5, OPT and a modern decoder as pure functions, with Hugging Face import and export."""
