"""How engines are best set up on this node: planned from what is known, and measured."""
