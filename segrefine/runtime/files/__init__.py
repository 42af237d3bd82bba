"""Reading and writing images, masks and marks: the only file access of the runtime."""
