"""The pack: artifacts with everything needed to check, run and read about them."""
