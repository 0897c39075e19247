"""Key sets of identity providers: fetched by the registry that leads, published with their providers."""
