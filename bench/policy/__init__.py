"""Cost of the policy update and of handing weights to engines."""
