"""The ops: one folder each, with the public function, its gradients and its implementations by backend."""
