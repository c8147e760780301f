"""What is asked: a task loads questions, prompts, parses and scores."""
