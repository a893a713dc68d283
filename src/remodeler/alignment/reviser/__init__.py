"""The adaptive reviser: trained, calibrated, applied."""
