"""From traces to plans: what `s2d calibrate` learns, and what `s2d sweep` measures of it."""
