// Training on small synthetic sets: it learns, it resumes exactly, it stops with a checkpoint, and it follows teachers.
