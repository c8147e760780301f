"""How well it answers: scoring, voting, contrast, statistics."""
