"""Where events enter: `track()`, `@track_event`, and what keeps an exit from losing them."""
