"""Tasks: questions, prompt formats, answer parsing, few-shot examples and the embedded world."""
