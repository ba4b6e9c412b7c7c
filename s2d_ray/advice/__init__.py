"""What serving costs, what a load needs, and when capacity runs out: pure functions of usage
records, measured costs and prices, and the command that prints them."""
