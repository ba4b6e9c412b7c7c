"""The service on a virtual clock: the real ledger and scaling rule, measured costs, any trace."""
