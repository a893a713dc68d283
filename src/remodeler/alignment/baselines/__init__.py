"""Fine-tuning, DPO and ORPO on the same preferences."""
