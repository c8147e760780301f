"""Parts of the `plan` job: what a chain will compile, what that takes, and what to change where it does not fit."""
