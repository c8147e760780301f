"""Models behind OpenAI-compatible servers: HTTP client, request bodies, live requests, and batch files."""
