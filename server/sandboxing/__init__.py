"""FFmpeg in processes of its own, which may do nothing else."""
