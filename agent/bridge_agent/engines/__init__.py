"""The node's engine instances: started, watched, adopted, drained and stopped here."""
