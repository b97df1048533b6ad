"""Studies of thousands of packings: a study file, its tasks, batches of them on every device, and the results."""
