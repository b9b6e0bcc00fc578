"""What the mesh costs. `make bench` runs all of it; README.md tells how to read the table."""
