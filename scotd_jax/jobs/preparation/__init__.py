"""What a run checks, fetches and pushes around its steps: config, prompt lengths, models of the Hub."""
