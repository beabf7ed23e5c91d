"""Networks, data, training, evaluation and experiments: the reproduction itself, without Ray and MLflow."""
