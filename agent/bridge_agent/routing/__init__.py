"""Pure decisions about where a request goes; no clock, socket or loop in here."""
