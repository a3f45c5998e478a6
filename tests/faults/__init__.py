"""What the server must survive: kill -9, full disks, failing ones."""
