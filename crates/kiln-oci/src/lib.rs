//! OCI image words as types: digests, references, manifests, configs, and layers as tar streams
