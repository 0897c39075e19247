"""`bridgectl doctor`: what a first installation gets wrong, found before it is a riddle."""
