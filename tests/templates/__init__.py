"""The official templates as the yardstick: opened, converted, planned at real size and run at small width."""
