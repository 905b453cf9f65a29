"""One file a data set: where its images and texts come from and how they become samples."""
