"""Cards of pages, one file each: put a file with a CARD here, or into a folder, and it is on its pages."""
