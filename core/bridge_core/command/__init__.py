"""What the commands share: how they begin, answer and end, and the texts that several print."""
