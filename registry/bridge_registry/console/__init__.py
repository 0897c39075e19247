"""What people watch of the mesh: the picture, what happened, and the pages that show both."""
