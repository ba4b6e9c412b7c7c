"""Does a draft earn its place beside its targets: evaluate, calibrate, benchmark, and judge."""
