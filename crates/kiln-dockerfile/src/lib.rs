//! The Dockerfile language: text to syntax tree and diagnostics, variable expansion, ignore files
