"""Storage: how bytes get to disk or a bucket (paths, logs, workdirs, checkpoints)."""
