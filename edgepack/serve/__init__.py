"""A pack on a phone's browser: a page that runs its artifacts, and a server that hands them out and judges what comes back."""
