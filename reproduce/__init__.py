"""What is reproduced: networks, data, training, evaluation, experiments. Knows no Ray and no MLflow."""
