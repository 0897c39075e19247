"""Models that have to be signed: what comes here is checked, and what is not signed is not served."""
