"""Work around the steps of a run: checks of config and prompt lengths, downloads from the Hub, and pushes to it."""
