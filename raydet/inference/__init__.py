"""What a trained model is for: evaluation, prediction, export."""
