"""Writers and linters of the three artifact formats. Each folder imports hub and quantize types, never another backend."""
