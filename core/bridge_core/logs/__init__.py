"""The programs' own logs: an event a line, in the words of the Elastic Common Schema."""
