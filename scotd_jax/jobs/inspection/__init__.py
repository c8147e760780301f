"""What models see and generate in a run: prompts with their tokens, and example responses."""
