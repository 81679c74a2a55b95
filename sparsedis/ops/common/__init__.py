"""Code that the operations share: the backend protocol, custom operations with gradients, devices, batches."""
