"""Other programs' configurations, read into what `sluicegate import` writes."""
