"""Stand-ins for devices: programs that speak the real protocols."""
