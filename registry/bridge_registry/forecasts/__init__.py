"""When what fills will be full: forecasts of what nodes report."""
