"""What runs in processes of its own: learning and scoring, verification, and what-if evaluation."""
