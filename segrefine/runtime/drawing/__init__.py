"""Pictures of results: overlays, contact sheets and plots."""
