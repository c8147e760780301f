"""Parts of the plan job: workloads of a config, their programs, memory and duration, and suggestions."""
