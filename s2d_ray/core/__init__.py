"""The mathematics: coupling, proposals, verification, cascade, sampling. Pure torch."""
