"""Data sets of masks, in and out: COCO JSON, label maps, class folders, soft maps. NumPy and Pillow only."""
