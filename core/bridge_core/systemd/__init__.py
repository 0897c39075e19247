"""Running as services of systemd: what it hands us, what we tell it, and putting units in place."""
