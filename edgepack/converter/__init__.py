"""The converter graph: pure steps with declared inputs and outputs, a plan that is checked before it runs, and who runs it."""
