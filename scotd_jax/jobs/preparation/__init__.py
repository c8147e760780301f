"""Work around the steps of a run: checks of config and prompt lengths, identities of artefacts, and the Hub."""
