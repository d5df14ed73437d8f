"""What jobs do: plain functions (work, request) -> result, called in worker processes by atlas.server.jobs."""
