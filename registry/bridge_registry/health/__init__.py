"""Whether instances are well, from what all nodes report: verdicts, and who is taken out."""
