"""What can be trained: a folder a task, found by the values of `trains` that it serves."""
