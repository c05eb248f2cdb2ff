//! Namespaces, mounts, paths inside root file systems and the processes that run there
