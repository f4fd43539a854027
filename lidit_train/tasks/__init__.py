"""What can be trained: one folder a task."""
