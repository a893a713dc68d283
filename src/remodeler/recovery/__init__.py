"""Quality back after pruning: LoRA, full fine-tuning, distillation."""
