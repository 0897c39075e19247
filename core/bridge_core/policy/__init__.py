"""Who may do what: policies as a snapshot has them, and the pure engine that decides by them."""
