"""The systematic comparison: a plan of arms, the runs it takes, and the report that follows from their results."""
