"""Plan of a stage-2 run: memory part by part, steps, and the table that says it."""
