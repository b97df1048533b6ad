"""The energy landscape at a point: derivatives, contacts, zero modes, curvatures, and the thresholds for these."""
