"""What comes of a comparison: verdict, certificate, promotion, and a trial for the undecided."""
